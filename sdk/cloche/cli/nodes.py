"""`node`: the machines that runs and replicas are placed on."""

import typer

from cloche.cli.options import command
from cloche.cli.session import Session
from cloche.cli.text import Table, cell, size


def install(app: typer.Typer) -> None:
    """Add the commands."""
    node = typer.Typer(no_args_is_help=True, help="Nodes: what there is and what is free.")
    command(node, "list", list_all)
    app.add_typer(node, name="node")


def list_all(session: Session) -> None:
    """List the nodes with their CPUs, memory and GPUs, and what of them is free."""
    with session.client() as client:
        items = client.nodes.list()
    rows = [
        (
            cell(item.get("id")),
            cell(item.get("status")),
            f"{item.get('free_cpus', 0):g} of {item.get('cpus', 0):g}",
            f"{size(item.get('free_memory'))} of {size(item.get('memory'))}",
            _gpus(item.get("gpus")),
            str(len(item.get("holders") or ())),
        )
        for item in items
    ]
    columns = ("NODE", "STATUS", "CPUS FREE", "MEMORY FREE", "GPUS FREE", "HOLDERS")
    session.output.listing(items, Table(columns, rows), empty="No node has joined.")


def _gpus(value: object) -> str:
    found = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    if not found:
        return "-"
    kinds = ", ".join(sorted({str(one.get("kind")) for one in found}))
    return f"{sum(1 for one in found if one.get('free'))} of {len(found)} ({kinds})"
