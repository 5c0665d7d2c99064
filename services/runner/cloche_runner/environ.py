"""The environment variables of a user's process."""

from collections.abc import Mapping
from pathlib import Path

from cloche_runner.domain.runs import Run
from cloche_runner.ports import AttemptPaths

BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(run_id: str, run: Run, bin_folder: Path, paths: AttemptPaths) -> Mapping[str, str]:
    """Return exactly what the user's process gets: a small base, the environment's variables, the run's, ours."""
    asked = run.spec.variables if run.spec is not None else {}
    resolved = run.environment
    gpus = ",".join(run.gpus)
    base = {
        "PATH": f"{bin_folder}:{BASE_PATH}",
        "HOME": str(paths.home),
        "TMPDIR": str(paths.tmp),
        "LANG": "C.UTF-8",
    }
    ours = {
        "PATH": base["PATH"],
        "VIRTUAL_ENV": str(bin_folder.parent),
        "CLOCHE_RUN_ID": run_id,
        "CLOCHE_RUN_ATTEMPT": str(run.attempt),
        "CLOCHE_RUN_JOURNAL": str(paths.journal),
        "CLOCHE_RUN_UPLOADS": str(paths.uploads),
        "AZUREML_RUN_ID": run_id,
        "CUDA_VISIBLE_DEVICES": gpus,
        "NVIDIA_VISIBLE_DEVICES": gpus or "void",
    }
    if resolved is not None:
        ours["CLOCHE_ENVIRONMENT_NAME"] = resolved.name
        ours["CLOCHE_ENVIRONMENT_VERSION"] = resolved.version
        ours["CLOCHE_ENVIRONMENT_DEFINITION_HASH"] = resolved.definition_hash
    ours["CLOCHE_ENVIRONMENT_LOCK_DIGEST"] = run.lock_digest
    variables = resolved.definition.variables if resolved is not None else {}
    return {**base, **variables, **asked, **ours}
