"""What a notebook needs besides the stages: its parameters checked, its figures shown, its verdict written; and how
papermill executes it.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import nbformat
import papermill
from IPython.display import Image
from matplotlib.figure import Figure
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config as Traits

from v13 import errors, market, store
from v13.config import find_root
from v13.errors import ConfigError, V13Error
from v13.measures import StepVerdict
from v13.research import figures
from v13.research.run import Run, open_run

__all__ = [
    "CLOSURE_NOTEBOOK",
    "DEMO",
    "NOTEBOOKS",
    "PARAMETERS",
    "demo_data",
    "execute",
    "finish",
    "show",
    "start",
]

NOTEBOOKS: Final = (
    "01_data_quality",
    "02_grid_search",
    "03_score_calibration",
    "04_acceptance",
    "05_noise_certificate",
)
CLOSURE_NOTEBOOK: Final = "06_metrics_closure"  # has parameters of its own and joins where a runner was watched
DEMO: Final = "demo"  # as `data`: the embedded simulated market

# The one list of papermill parameters, the same in every notebook: name, accepted types.
PARAMETERS: Final[dict[str, tuple[type, ...]]] = {
    "data": (list,),
    "symbol": (str, type(None)),
    "out": (str,),
    "root": (str, type(None)),
    "env": (str, type(None)),
    "seed": (int, type(None)),
}
_OF_IPYTHON: Final = {"In", "Out", "exit", "quit", "get_ipython", "open"}


def start(namespace: Mapping[str, Any]) -> Run:
    """Check a notebook's parameters and open its run.

    Parameters
    ----------
    namespace : mapping
        The notebook's `globals()`. Any plain value in it that is not a parameter was injected by mistake: papermill
        alone only warns about that.

    Raises
    ------
    ConfigError
        An unknown or missing parameter, or one of the wrong type.
    """
    values = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in _OF_IPYTHON and not _is_code(value)
    }
    check_parameters(values)
    missing = [name for name in PARAMETERS if name not in values]
    if missing:
        raise ConfigError(f"notebook: parameter {missing[0]!r} is missing from the cell tagged `parameters`")
    root = find_root(Path.cwd()) if values["root"] is None else Path(values["root"])
    data = [DEMO] if values["data"] == [DEMO] else [str(root / p) for p in values["data"]]
    if data == [DEMO]:
        data = [str(p) for p in demo_data(root)]
    return open_run(
        data, root=root, out=root / values["out"], symbol=values["symbol"], env=values["env"], seed=values["seed"]
    )


def check_parameters(values: Mapping[str, Any]) -> None:
    """Refuse names that are no parameter, and values of the wrong type.

    Raises
    ------
    ConfigError
        Naming the parameter and what was expected.
    """
    for name, value in values.items():
        if name not in PARAMETERS:
            raise ConfigError(f"notebook: unknown parameter {name!r}; there are {', '.join(PARAMETERS)}")
        kinds = PARAMETERS[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
            raise ConfigError(f"notebook: parameter {name!r}: expected {wanted}, found {value!r}")


def show(figure: Figure) -> Image:
    """Return a figure as a cell's output."""
    return Image(  # type: ignore[no-untyped-call]
        data=figures.png(figure), format="png"
    )


def finish(run: Run, verdict: StepVerdict) -> StepVerdict:
    """Write `<out>/verdicts/<notebook>.json` and return the verdict, for a notebook's last cell."""
    store.write_json(
        run.out / "verdicts" / f"{verdict.notebook}.json",
        {
            "notebook": verdict.notebook,
            "key": run.key,
            "simulated": run.simulated,
            "status": verdict.status,
            "summary": verdict.summary,
            "numbers": dict(verdict.numbers),
        },
    )
    return verdict


def demo_data(root: Path) -> list[Path]:
    """Return the files of the embedded demo market, simulating them once into runs/demo."""
    folder = root / "runs" / "demo"
    made = sorted(folder.glob("*.parquet"))
    if made:
        return made
    with store.staged_dir(folder) as staged:
        market.demo_market(staged)
    return sorted(folder.glob("*.parquet"))


def execute(name: str, folder: Path, executed: Path, parameters: Mapping[str, Any], *, progress: bool) -> None:
    """Execute one notebook with papermill.

    Parameters
    ----------
    folder : Path
        Where the notebooks are.
    executed : Path
        Where the executed copy goes.

    Raises
    ------
    V13Error
        The class the notebook failed with, where it was one of ours; else V13Error with the cell's error.
    """
    if name in NOTEBOOKS:
        check_parameters(parameters)
    source = folder / f"{name}.ipynb"
    if not source.is_file():
        raise ConfigError(f"{source}: no such notebook")
    declared = set(papermill.inspect_notebook(str(source)))
    unknown = set(parameters) - declared
    if unknown:
        raise ConfigError(f"{source}: the cell tagged `parameters` lacks {', '.join(sorted(unknown))}")
    try:
        papermill.execute_notebook(
            str(source),
            str(executed),
            parameters=dict(parameters),
            progress_bar=progress,
            log_output=False,
            extra_arguments=["--IPKernelApp.log_level=50"],  # errors of cells come back by themselves
            kernel_name="python3",
            config=Traits({"KernelManager": {"transport": "ipc"}}),  # no TCP ports, and no warning about them
        )
    except PapermillExecutionError as error:
        kind = getattr(errors, error.ename, V13Error)
        if not (isinstance(kind, type) and issubclass(kind, V13Error)):
            kind = V13Error
        raise kind(f"{name}, cell {error.exec_count}: {error.ename}: {error.evalue}") from error


def strip_noise(executed: Path) -> nbformat.NotebookNode:
    """Return an executed notebook without what differs between equal runs: times, ids and papermill's host facts."""
    book = nbformat.read(executed, as_version=4)
    book.metadata.pop("papermill", None)
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number:02d}"
        for key in ("papermill", "execution", "scrolled"):
            cell.metadata.pop(key, None)
    return book


def _is_code(value: Any) -> bool:
    return isinstance(value, (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)) or callable(value)
