"""Memory and open files of our agent over one long run of free jobs."""

from bench.measure import ROUNDS, Bar, Figure, Line, folder
from bench.plot import curve
from bench.sides import agent, relay_and_client

JOBS, WARM, STEP, WINDOW = 10_000, 1_000, 500, 50
RUNS_MAX = 3
FLAT = Bar(1.05, at_least=False)

Sample = tuple[int, float, int]  # jobs done, MB, open files


def measure(rounds: int = ROUNDS, jobs: int = JOBS, warm: int = WARM, step: int = STEP) -> Figure:
    """Runs of `jobs` jobs, each in a new process on a new folder: the end against what it was after `warm` jobs."""
    runs = [_run(jobs, step) for _ in range(min(rounds, RUNS_MAX))]
    warmed = [next(sample for sample in run if sample[0] >= warm) for run in runs]
    ended = [run[-1] for run in runs]

    def line(what: str, unit: str, column: int) -> Line:
        ours, other = (tuple(float(sample[column]) for sample in samples) for samples in (ended, warmed))
        return Line(f"{what} after {jobs:,} jobs, against after {warm:,}", unit, ours, other, FLAT)

    return Figure(
        "memory",
        "Memory and open files over one run",
        (line("memory (RSS)", "MB", 1), line("open files", "", 2)),
        {
            "memory.svg": curve(
                "Memory of the agent over one run",
                "jobs done",
                "megabytes (RSS)",
                {f"run {n}": [(float(done), mb) for done, mb, _ in run] for n, run in enumerate(runs, 1)},
            )
        },
    )


def _run(jobs: int, step: int) -> list[Sample]:
    with relay_and_client() as (url, client), folder() as data, agent(url, data) as process:
        samples = []
        for done in range(step, jobs + 1, step):
            client.run(step, window=WINDOW, agent=process)
            process.cpu_seconds()  # waits until it is quiet
            samples.append((done, process.memory_bytes() / 1e6, process.open_files()))
        return samples
