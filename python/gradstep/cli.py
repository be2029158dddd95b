"""The command line. Alone in parsing arguments; what the commands do stands in other modules."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import csv
import math
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from . import bench, bench_offload, bench_training, demo, machine, pages, plots, runtime, schedules
from .tables import table
from .tuning import Judged, finding, following, judge, piping, read_logs, watching
from .tuning.formats import files

Wait = Callable[[float], bool | None]
Runs = tuple[Judged, ...] | watching.Watched

# What may be counted up to: beyond, a command would run for hours or want too much memory.
MOST = 1_000_000
MOST_UPDATES = 100_000_000
ROWS_AT_ONCE = 1 << 14  # of a table of values, however long it is

# What is printed besides ASCII, where the terminal or the file that reads it has nothing else.
PLAIN = str.maketrans(
    {
        "×": "x", "÷": "/", "→": "->", "─": "-", "‖": "||", "±": "+-", "µ": "u", "²": "^2",
        "√": "sqrt ", "≥": ">=", "…": "...", "·": "*", "η": "lr", "ε": "eps", "β": "beta",
        "▁": "1", "▂": "2", "▃": "3", "▄": "4", "▅": "5", "▆": "6", "▇": "7", "█": "8",
    }
)  # fmt: skip


def plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of codecs: what stands for characters that an encoding lacks.

    Bytes of a file's name that are no text go out as they came in.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    one, end = error.object[error.start], error.start + 1
    if "\udc80" <= one <= "\udcff":
        return one.encode("ascii", "surrogateescape"), end
    plain = one.translate(PLAIN)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), end


codecs.register_error("gradstep.plainly", plainly)


def shown(text: str) -> str:
    """A text as an error quotes it, cut short where it is long."""
    return repr(text if len(text) <= 60 else f"{text[:50]}… ({len(text)} characters)")


def at_least(minimum: int, maximum: int = MOST) -> Callable[[str], int]:
    """An argument's type: a whole number from `minimum` to `maximum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(
                f"wanted a whole number of at least {minimum}, got {shown(text)}"
            )
        if value > maximum:
            raise argparse.ArgumentTypeError(f"wanted at most {maximum:,}, got {shown(text)}")
        return value

    return parse


def positive(text: str) -> float:
    """An argument's type: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"wanted a finite number above 0, got {shown(text)}")
    return value


def size(text: str) -> tuple[int, ...]:
    """An argument's type: see `bench.parse_size`."""
    try:
        return bench.parse_size(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "wanted N or COUNTxN, N possibly with Ki or Mi (65536, 16Mi, 2000x1000), and at most "
            f"{bench.MOST_ARRAYS:,} arrays of {bench.MOST_ELEMENTS:,}, got {shown(text)}"
        ) from None


def rate(text: str) -> float:
    """An argument's type: see `bench_offload.parse_rate`."""
    try:
        return bench_offload.parse_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("link: ")) from None


def seconds(text: str) -> float:
    """An argument's type: see `bench_offload.parse_seconds`."""
    try:
        return bench_offload.parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("compute: ")) from None


def folder(text: str) -> Path:
    """An argument's type: the path of a folder, which is not nothing."""
    if not text:
        raise argparse.ArgumentTypeError("wanted the path of a folder, got nothing")
    return Path(text)


def picture(text: str) -> Path:
    """An argument's type: the path of a picture that can be written, see `plots.check_path`."""
    try:
        return plots.check_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("path: ")) from None


def schedule(text: str) -> schedules.Schedule:
    """An argument's type: see `schedules.parse`."""
    try:
        return schedules.parse(text)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def page(text: str) -> Path:
    """An argument's type: the path of a page that can be written, see `pages.check_path`."""
    try:
        return pages.check_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("path: ")) from None


def run_demo(arguments: argparse.Namespace) -> None:
    demo.run(arguments.out, seed=arguments.seed, epochs=arguments.epochs)


def run_info(_: argparse.Namespace) -> None:
    print(table(machine.describe().items()))


OFFLOAD_OPTIONS = ("link", "compute", "model", "layers", "plot")


def refuse(names: Sequence[str], arguments: argparse.Namespace, why: str) -> None:
    """Refuse options that do not go with others."""
    for name in names:
        if getattr(arguments, name):
            raise finding.Refused(f"--{name}: got it {why}")


def run_bench(arguments: argparse.Namespace) -> None:
    if arguments.offload:
        run_bench_offload(arguments)
        return
    refuse(OFFLOAD_OPTIONS, arguments, "without --offload, wanted it with that alone")
    if arguments.training:
        own = "with --training, whose networks and sizes are its own; wanted one of the two"
        refuse(("rule", "size"), arguments, own)
        bench_training.run(rounds=arguments.rounds)
        return
    bench.run(
        arguments.rule or ["AdamW"],
        arguments.size or bench.DEFAULT_SIZES,
        rounds=arguments.rounds,
    )


def run_bench_offload(arguments: argparse.Namespace) -> None:
    refuse(("training", "rule"), arguments, "with --offload, wanted one of the two")
    if arguments.model == "gpt2":
        own = "with --model gpt2, whose layers are its own; wanted one of the two"
        refuse(("size", "layers"), arguments, own)
        layers, name, last = bench_offload.gpt2_layers(), "GPT-2", bench_offload.GPT2_EMBEDDING
    else:
        sizes = arguments.size or [(bench_offload.GPT2_SIZE,)]
        if len(sizes) > 1 or len(sizes[0]) > 1:
            got = ", ".join(f"{len(size)}x{size[0]}" for size in sizes)
            raise finding.Refused(f"--size: got {got} with --offload, wanted one N for the model")
        count = arguments.layers or bench_offload.LAYERS
        try:
            layers = bench_offload.equal_layers(sizes[0][0], count)
        except ValueError as error:
            raise finding.Refused(f"--{error}") from None
        name, last = f"{count:,} equal layers", None
    task = bench_offload.Task(
        name,
        layers,
        arguments.compute or bench_offload.COMPUTE,
        arguments.link or bench_offload.LINK,
        last,
    )
    timelines = bench_offload.run(task, rounds=arguments.rounds)
    if arguments.plot is not None:
        print(plots.timeline(timelines, arguments.plot, title=bench_offload.headline(task)))


def run_plot(arguments: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        alone = arguments.csv == Path("-")  # other programs read what is printed
        file: TextIO | None = sys.stdout if alone else None
        if arguments.csv is not None and not alone:
            file = stack.enter_context(kept_where_refused(arguments.csv))
        for schedule in arguments.spec:
            try:
                line = schedules.sparkline(schedule, arguments.total)
                words = schedules.explain(schedule, arguments.total)
            except ValueError as error:  # it ends before, or overflows
                raise finding.Refused(f"{schedule!r}: {error}") from None
            if not alone:
                print(line)
                print(words)
        if file is not None:
            if not alone and arguments.csv.is_file():  # no pipe or device
                file.truncate(0)
            write_values(file, arguments.spec, arguments.total)
    if arguments.csv is not None and not alone:
        print(arguments.csv)
    if arguments.out is not None:
        drawn = plots.schedules(arguments.spec, arguments.out, total=arguments.total)
        if not alone:
            print(drawn)


@contextlib.contextmanager
def kept_where_refused(path: Path) -> Iterator[TextIO]:
    """A file that can be written, opened to append: it stays as it was until it is emptied.

    One that is new goes again where an error ends this context.
    """
    new = not path.exists()
    try:
        file = path.open("a", newline="", encoding="utf-8")
    except OSError as error:
        raise finding.Refused(
            f"--csv: got {str(path)!r}, wanted a file that can be written: {error.strerror}"
        ) from None
    try:
        with file:
            yield file
    except BaseException:
        if new:
            path.unlink()
        raise


def write_values(file: TextIO, tabled: Sequence[schedules.Schedule], total: int) -> None:
    """The values of all updates as CSV: `k` and a column per schedule, to the last bit."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["k", *map(repr, tabled)])
    for begin in range(0, total, ROWS_AT_ONCE):
        steps = range(begin, min(total, begin + ROWS_AT_ONCE))
        columns = (one.range(steps.start, steps.stop).tolist() for one in tabled)
        writer.writerows(zip(steps, *columns, strict=True))


def run_find(arguments: argparse.Namespace) -> None:
    found = finding.find(
        arguments.target, arguments.low, arguments.high, arguments.points, arguments.sweeps
    )
    low, high = found.interval or (math.nan, math.nan)
    rows = [("confidence", found.confidence), ("because", found.reason)]
    if found.suggestion is not None:
        rows = [
            ("interval", f"{low:.3g} to {high:.3g}"),
            ("suggestion", f"{found.suggestion:.3g}"),
            *rows,
        ]
    print(table(rows))
    if arguments.out is not None:
        print(found.plot(arguments.out))


def run_watch(arguments: argparse.Namespace) -> None:
    paths: list[Path] = arguments.log
    if len(paths) > 1:
        if arguments.follow:
            raise finding.Refused(f"--follow: got {len(paths)} logs, wanted one file or folder")
        refuse_momentum(arguments)
        asked = names_asked_for(arguments)
        show_runs(
            tuple(judge(log) for path in paths for log in read_logs(path, **asked)), arguments
        )
    elif piping.is_pipe(paths[0]):
        with piping.Pipe(paths[0]) as pipe:
            if not arguments.follow:
                pipe.wait_for_all()
            try:
                watch_one(pipe.file, arguments, pipe.wait)
            except BrokenPipeError:  # whoever reads the verdict has seen enough
                raise
            except (finding.Refused, OSError) as error:
                if not pipe.has_ended():  # whoever writes into it is not to be stopped by that
                    told = f"gradstep: {error}; what else comes is passed over"
                    print(told, file=sys.stderr, flush=True)
                    pipe.drain()
                raise
            if pipe.is_cut:
                print(f"{paths[0]}: the first {piping.MOST:,} bytes were read, and no more")
    else:
        watch_one(paths[0], arguments, time.sleep)


def refuse_momentum(arguments: argparse.Namespace) -> None:
    refuse(("momentum",), arguments, "for a log without the reports of our steps, wanted none")


def names_asked_for(arguments: argparse.Namespace) -> dict[str, str]:
    given = {role: getattr(arguments, role) for role in ("loss", "lr", "step", "grad_norm")}
    return {role: name for role, name in given.items() if name is not None}


def watch_one(path: Path, arguments: argparse.Namespace, wait: Wait) -> None:
    """Judge a log that lies there, by our reports where it has them."""
    asked, name = names_asked_for(arguments), str(arguments.log[0])
    found: Runs
    if arguments.follow:
        found = follow(path, arguments, wait)
    elif not asked and watching.is_own(path):
        workers = watching.workers_for(path)
        found = watching.watch(path, momentum=arguments.momentum, workers=workers, name=name)
    else:
        refuse_momentum(arguments)
        found = tuple(map(judge, files.read_path(path, asked, name)))
    if not isinstance(found, watching.Watched):
        show_runs(found, arguments)
        return
    print(table(watching.describe(found)))
    if arguments.out is not None:
        print(found.plot(arguments.out))
    if arguments.html is not None:
        write_page(tuple(map(judge, files.read_path(path, asked, name))), arguments.html)


def follow(path: Path, arguments: argparse.Namespace, wait: Wait) -> Runs:
    """Show a run in a line that changes, or several in a line each, until Ctrl-C."""
    found: Runs = ()
    paces: dict[str, following.Pace] = {}
    alone = sys.stdout.isatty()
    last: list[str] = []
    asked, name = names_asked_for(arguments), str(arguments.log[0])
    with contextlib.suppress(KeyboardInterrupt):
        runs = following.follow(path, asked, momentum=arguments.momentum, name=name, wait=wait)
        for found in runs:
            lines = [] if found else [f"waiting for a loss in {name}"]
            if isinstance(found, watching.Watched):
                lines = [following.status(found)]
            else:
                if found:
                    refuse_momentum(arguments)
                for run in found:
                    left = paces.setdefault(run.log.name, following.Pace()).left(run.log)
                    begin = f"{run.log.name}  " if len(found) > 1 else ""
                    lines.append(begin + following.status(run, left))
            if alone and len(lines) == 1:
                # Spaces over what was longer: not every terminal can be told to clear a line.
                print(f"\r{lines[0]:{max(map(len, last), default=0)}}", end="", flush=True)
            elif lines != last:
                print("\n".join(lines), flush=True)
            last = lines
    print()
    if not found:
        raise finding.Refused(f"{name}: nothing could be read until it ended or was interrupted")
    return found


def show_runs(judged: tuple[Judged, ...], arguments: argparse.Namespace) -> None:
    if len(judged) > 1:
        if arguments.out is not None:
            raise finding.Refused(f"--out: got {len(judged)} runs, wanted one, or --html for all")
        print(table(following.overview(judged), following.OVERVIEW, right="<>>>"))
    else:
        print(table(following.describe(judged[0])))
    if arguments.out is not None:
        log, verdict = judged[0].log, judged[0].verdict
        count = log.losses.size
        print(plots.run(log.losses, log.rates, [math.nan] * count, arguments.out,
                        title="A run and its verdict", marks=[(count, verdict.kind)]))  # fmt: skip
    if arguments.html is not None:
        write_page(judged, arguments.html)


def write_page(judged: tuple[Judged, ...], path: Path) -> None:
    print(pages.write_page(judged, path))


Add = Callable[..., argparse.Action]
Command = Callable[..., Add]


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="gradstep", description="Optimizer steps on the CPU: see them, check them, race them."
    )
    top.add_argument(
        "--version", action="version", version=f"gradstep {runtime.config()['version']}"
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], None], brief: str, more: str = ""
    ) -> Add:
        made = commands.add_parser(name, help=brief, description=f"{brief} {more}".strip())
        made.set_defaults(run=run)
        return made.add_argument

    for add_command in (add_demo, add_plot, add_find, add_watch, add_info, add_bench):
        add_command(command)
    return top


def add_picture(add: Add, what: str = "the picture") -> None:
    add("--out", type=picture, metavar="FILE", help=f"{what}; its ending names the format")


def add_demo(command: Command) -> None:
    add = command(
        "demo",
        run_demo,
        "Train a small network on real handwritten digits with good and bad learning rates.",
        "For SGD, Adagrad, RMSprop and Adam: a rate that is too low, a sensible one, one that is "
        "too high, and four schedules. Prints tables, draws pictures, and times the step against "
        'NumPy. Needs the extra "demo".',
    )
    add("--out", type=folder, default=Path("gradstep-demo"), metavar="DIR",
        help="folder for the pictures, made where missing (default: ./gradstep-demo)")  # fmt: skip
    add("--seed", type=at_least(0, 1 << 128), default=0, metavar="N",
        help="seed of the first weights and the batches (default: 0)")  # fmt: skip
    add("--epochs", type=at_least(1, 10_000), default=demo.EPOCHS, metavar="N",
        help="passes over the training images (default: %(default)s)")  # fmt: skip


def add_plot(command: Command) -> None:
    add = command(
        "plot",
        run_plot,
        "Show schedules: a line of bars and what each does in words, and a picture.",
        'A SPEC is what Python would show, such as "cosine(0.1, total=1000).warmup(100)", or JSON. '
        'A picture needs the extra "demo".',
    )
    add("spec", nargs="+", type=schedule, metavar="SPEC", help="a schedule")
    add("--total", type=at_least(1, MOST_UPDATES), default=1000, metavar="N",
        help="updates to show (default: %(default)s)")  # fmt: skip
    add("--csv", type=Path, metavar="FILE",
        help="a table of all values, k and a column for each schedule; -: printed, and nothing "
        "else is")  # fmt: skip
    add_picture(add)


def add_find(command: Command) -> None:
    add = command(
        "find",
        run_find,
        "Find out which learning rates are worth trying in a training of yours: a range test.",
        "FUNCTION in SCRIPT.py takes no arguments and returns (train_step, optimizer). "
        "train_step() makes one step on its next minibatch and returns the loss as a float; it "
        "does not set the rate. optimizer is one of gradstep or torch, or has set_lr(rate), "
        "snapshot() and restore(snapshot). Prints the interval of rates, one suggestion, and the "
        "confidence with its reason; all of it takes --points times --sweeps steps.",
    )
    add("target", metavar="SCRIPT.py:FUNCTION", help="the script and the function in it")
    add("--low", type=positive, default=1e-7, metavar="RATE",
        help="the first rate (default: %(default)g)")  # fmt: skip
    add("--high", type=positive, default=10.0, metavar="RATE",
        help="the last rate (default: %(default)g)")  # fmt: skip
    add("--points", type=at_least(10, 10_000), default=100, metavar="N",
        help="steps of a sweep (default: %(default)s)")  # fmt: skip
    add("--sweeps", type=at_least(1, 1000), default=1, metavar="N",
        help="how often to sweep, always from the same start (default: %(default)s)")  # fmt: skip
    add_picture(add)


def add_watch(command: Command) -> None:
    add = command(
        "watch",
        run_watch,
        "Say of a training that was logged whether its rate was too high or too low.",
        "LOG is a file or a folder; what wrote it is found out from its content: JSON lines, a "
        "Trainer's trainer_state.json, CSV (Lightning, Keras, Ultralytics, exports of W&B, MLflow "
        "and TensorBoard), TensorBoard's event files (with the extra \"logs\"), MLflow's metric "
        "files, or text with a loss in its lines, tqdm's, too. Prints the verdict (too high, too "
        "low, diverging, plateau, fine or inconclusive), how sure it is, why, and what to try; of "
        "several runs a line each, by their rates. A log with one JSON object per line of a "
        "gradstep optimizer's reports (report.to_json(), and the loss of the batch before the "
        "update) is judged by those, which says more: needed are loss, t, update_norm, param_norm "
        "and grad_norm; cosine, g2_over_v, lr and skipped are used where they are there; null "
        "stands for what is not known. The first 100 updates are then looked at together, later "
        "ones in windows of 100 steps.",
    )
    add("log", type=Path, nargs="+", metavar="LOG",
        help="the log: a file, a folder, or a pipe; -: standard input")  # fmt: skip
    for role, what in {
        "loss": "loss", "lr": "learning rate", "step": "step", "grad_norm": "gradients' norm",
    }.items():  # fmt: skip
        add(
            f"--{role.replace('_', '-')}",
            metavar="NAME",
            help=f"the column or key of the {what} (default: found by the names that tools use)",
        )
    add(
        "--follow",
        action="store_true",
        help="read on whenever it has grown, and show a line; Ctrl-C, or the end of a pipe, leaves "
        "the report",
    )
    add("--html", type=page, metavar="FILE", help="write a page to look at")
    add("--momentum", action=argparse.BooleanOptionalAction, default=None,
        help="whether the rule has a momentum (default: found out from the log, which clipped "
        "gradients can mislead)")  # fmt: skip
    add_picture(add, "a picture of loss, rate and updates")


def add_info(command: Command) -> None:
    command("info", run_info, "Show targets, threads, caches, processor and build.")


def add_bench(command: Command) -> None:
    add = command(
        "bench",
        run_bench,
        "Race the step against NumPy, torch and optax, as far as they are installed.",
        "Checks first that all compute the same update. Prints nanoseconds per parameter, GB/s, "
        "and the share of the bandwidth that a bare loop over the same bytes reaches on this "
        "machine.",
    )
    add("--rule", action="append", choices=list(bench.RULES),
        help="the update; may be given several times (default: AdamW)")  # fmt: skip
    add("--size", action="append", type=size, metavar="N|COUNTxN",
        help="parameters of one array, or COUNT arrays of N; Ki and Mi are allowed; may be given "
        "several times (default: 64Ki, 1Mi, 16Mi and 2000x1000)")  # fmt: skip
    add("--rounds", type=at_least(1, 10_000), default=5, metavar="N",
        help="how often everyone takes a turn (default: %(default)s)")  # fmt: skip
    add("--training", action="store_true",
        help="race AdamW's step where it runs instead: right after the backward pass of five "
        "networks (where torch is installed) and after products in NumPy, in whole iterations; a "
        "few minutes")  # fmt: skip
    add("--offload", action="store_true",
        help="simulate iterations whose optimizer is offloaded instead: how long they take, and "
        "what remains after the backward pass, with ours, with a synchronous step and in "
        "DeepSpeed's layout (where deepspeed is installed); wants torch; two minutes and 8 GB of "
        "memory. The options below go with it")  # fmt: skip
    add("--link", type=rate, metavar="RATE",
        help="of the link to the device, each way (default: 25GB/s)")  # fmt: skip
    add("--compute", type=seconds, metavar="TIME",
        help="of the device's forward and backward pass together (default: 200ms)")  # fmt: skip
    add("--model", choices=["equal", "gpt2"],
        help="equal: --size parameters (default: as many as GPT-2 has) in --layers of equal size; "
        "gpt2: its layers, whose embedding's gradient comes last (default: equal)")  # fmt: skip
    add("--layers", type=at_least(1, bench_offload.MOST_LAYERS), metavar="N",
        help=f"of the model (default: {bench_offload.LAYERS})")  # fmt: skip
    add("--plot", type=picture, metavar="FILE",
        help="a picture of the timelines; its ending names the format")  # fmt: skip


def prepare_streams() -> None:
    """Have stdout and stderr take all that is printed: they may be closed, or not know a sign."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: a file that is opened later must not take its place
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif name == "stdout" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="gradstep.plainly")


def is_unread(stream: Any) -> bool:
    """Whether nobody reads what is written there, as after `| head`."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no file behind it
        if sys.platform != "win32":  # which does not tell
            poll = select.poll()
            poll.register(stream.fileno(), select.POLLOUT)
            return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
    return True


def silence(stream: Any) -> None:
    """Write what is left in a stream nowhere, so that nothing is said of it at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run(argv: Sequence[str] | None) -> int:
    """Parse and run a command; see :func:`main`."""
    try:
        arguments = parser().parse_args(argv)
        arguments.run(arguments)
        return 0
    except (ImportError, OSError, finding.Refused) as error:
        if isinstance(error, BrokenPipeError) and is_unread(sys.stdout):
            raise  # not the script's own
        print(f"gradstep: {error}", file=sys.stderr)
    except MemoryError as error:
        text = str(error) or "the memory of this machine is not enough"
        print(f"gradstep: {text}", file=sys.stderr)
    except KeyboardInterrupt:
        print("gradstep: interrupted", file=sys.stderr)
        return 130
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; `argv` defaults to the process's own arguments.

    Returns:
        0 when all went well, 1 when a package, a file, a script or the memory got in the way (the
        reason goes to stderr), 130 when interrupted. Bad usage exits with 2 by itself.
    """
    prepare_streams()
    try:
        try:
            return run(argv)
        finally:  # what argparse printed before it exits, too
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as `| head` does
        silence(sys.stdout)
        return 0
    except OSError as error:  # stdout could not be written to
        silence(sys.stdout)
        print(f"gradstep: {error}", file=sys.stderr)
        return 1
