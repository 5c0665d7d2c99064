"""References as they come in: an inline definition is checked before anything is recorded."""

from collections.abc import Sequence

from cloche_shared.contracts.references import EnvironmentRef, InlineEnvironment, ModelRef, References
from cloche_shared.errors import Invalid, Violation
from cloche_shared.store.requirements import check_definition

_WHERE = "/environment/definition"


def checked_references(
    environment: EnvironmentRef | InlineEnvironment | None, models: Sequence[ModelRef] = ()
) -> References:
    """Return the references of a request, an inline definition in canonical form.

    Raises what `check_definition` raises, with pointers below `/environment/definition`: here its
    lines can still be pointed at, and nothing of it is in any journal yet.
    """
    if isinstance(environment, InlineEnvironment):
        try:
            definition = check_definition(environment.definition)
        except Invalid as error:
            violations = [Violation(_WHERE + one.pointer, one.code, one.detail) for one in error.violations]
            raise Invalid(
                error.code, error.what, why=error.why, todo=error.todo, violations=violations, extra=error.extra
            ) from None
        environment = environment.model_copy(update={"definition": definition})
    return References(environment=environment, models=tuple(models))
