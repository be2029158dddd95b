"""The search for a rate: train with several, compare where they end.

Optuna chooses rates, prunes and stores; `sharing` lets processes work on one list, in a file or in
one of `databases`.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import multiprocessing
import operator
import os
import pickle
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..checks import whole
from ..progress import bars
from . import databases, sharing
from .searched import Method, Outcome, SearchResult, Tried

Objective = Callable[[float, int], Iterable[tuple[int, float]]]
METHODS = ("grid", "random", "tpe")
STARTUP = 5  # rates that TPE tries at random before it models; trials before one is pruned


# ---------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class _Plan:
    """The arguments of `search`, checked."""

    low: float
    high: float
    method: Method
    trials: int
    seeds: tuple[int, ...]
    storage: Any = field(repr=False)  # a URL may have a password
    prune: Any
    seed: int

    def rates(self) -> list[float]:
        """What is to be tried whatever comes out, in this order."""
        if self.method == "grid":
            # From coarse to fine, so that the first few tell most: 0, 8, 4, 12, 2, … of 16.
            bits = (self.trials - 1).bit_length()
            order = sorted(range(self.trials), key=lambda i: f"{i:0{bits}b}"[::-1])
            rates = np.geomspace(self.low, self.high, self.trials)[order]
        else:
            count = self.trials if self.method == "random" else min(STARTUP, self.trials)
            # The first few are the same however many there are.
            at = np.random.default_rng(self.seed).random(count)
            rates = np.exp(np.log(self.low) + at * np.log(self.high / self.low))
        # In so many digits, a rate that is printed is the rate that was used.
        return [min(max(float(f"{rate:.6g}"), self.low), self.high) for rate in rates]

    @property
    def total(self) -> int:
        """The least number of trials, in addition to the rates listed."""
        return self.trials if self.method == "tpe" else 0


def _plan(
    lr: Any, method: Any, trials: Any, seeds: Any, storage: Any, prune: Any, seed: Any
) -> _Plan:
    """Check the arguments of `search`."""
    wanted = f"lr: got {lr!r}, wanted (low, high) with 0 < low < high"
    try:
        low, high = map(float, lr)
    except (TypeError, ValueError):
        raise TypeError(wanted) from None
    if not 0 < low < high < math.inf:
        raise ValueError(wanted + (": the lower rate first" if 0 < high < low else ""))
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}, wanted one of {', '.join(METHODS)}")
    trials = whole("trials", trials)
    least = {"grid": 2, "random": 1, "tpe": STARTUP + 1}[method]
    if trials < least:
        why = {"grid": "both ends of lr", "random": "a rate", "tpe": f"{STARTUP} are random"}
        raise ValueError(f"trials: got {trials}, wanted at least {least}: {why[method]}")
    if isinstance(seeds, Iterable):
        listed = tuple(whole("seeds", one) for one in seeds)
    else:
        listed = tuple(range(whole("seeds", seeds)))
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"seeds: got {seeds!r}, wanted how many, or different ones")
    if not isinstance(prune, bool) and not callable(getattr(prune, "prune", None)):
        raise TypeError(f"prune: got {prune!r}, wanted True, False or a pruner of Optuna's")
    seed = whole("seed", seed)
    if seed < 0:
        raise ValueError(f"seed: got {seed}, wanted 0 or more")
    return _Plan(low, high, method, trials, listed, _storage(storage), prune, seed)


def _storage(storage: Any) -> Any:
    """None, a path, the URL of a database, or an object of Optuna's."""
    if storage is None:
        return None
    if databases.is_url(storage):
        return databases.check_url(storage)
    if isinstance(storage, str | os.PathLike):
        return Path(cast(str, storage))
    if not hasattr(storage, "create_new_trial"):
        raise TypeError(f"storage: got {storage!r}, wanted a path, a URL or a storage of Optuna's")
    if str(getattr(getattr(storage, "_backend", storage), "url", "")).startswith("sqlite"):
        raise ValueError(
            "storage: got a storage of Optuna's for SQLite, which gives one trial to two "
            "processes, wanted its URL"
        )
    return storage


# ---------------------------------------------------------------------------------------- runs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While this context lasts, Optuna does not log what it does."""
    logging = sharing.optuna("logging")
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def _studying(plan: _Plan) -> Iterator[Any]:
    """While this context lasts, Optuna's study in the plan's storage, begun or continued."""
    optuna = sharing.optuna()
    with contextlib.ExitStack() as stack:
        storage = plan.storage
        if isinstance(storage, Path):
            storage = sharing.journal(storage)
        elif isinstance(storage, str):
            storage = stack.enter_context(databases.database(storage))
        study = optuna.create_study(
            storage=storage, study_name=sharing.STUDY, sampler=optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )  # fmt: skip
        _check_seeds(study, plan)
        yield study


def _check_seeds(study: Any, plan: _Plan) -> None:
    """Raise ValueError where the storage holds runs with other seeds."""
    for trial in sharing.live(study.get_trials(deepcopy=False)):
        seeds = tuple(trial.user_attrs.get("seeds", plan.seeds))
        if seeds != plan.seeds:
            raise ValueError(
                f"seeds: the storage holds runs with seeds {seeds}, got {plan.seeds}: "
                "wanted the same, or another storage"
            )


def _tried(study: Any) -> tuple[Tried, ...]:
    """What came to an end so far, from the lowest rate to the highest."""
    rows: list[Tried] = []
    for trial in sharing.live(study.get_trials(deepcopy=False)):
        run = trial.user_attrs.get("run")
        if run and trial.state.is_finished():
            rate = trial.user_attrs["lr"]
            rows.append(Tried(rate, run["outcome"], tuple(run["losses"]), run["step"]))
    return tuple(sorted(rows, key=lambda row: row.rate))


def _rate(study: Any, trial: Any, plan: _Plan) -> float:
    """The rate of a trial that was claimed, chosen by TPE where it was not enqueued."""
    optuna = sharing.optuna()
    rate = trial.user_attrs.get("lr")
    if rate is None:
        # One sampler per trial: what it draws depends on the seed and the trials before, not on who
        # asks, so that a search that is continued goes on as one that was not interrupted.
        place = len(sharing.below(study, trial))
        mixed = np.random.SeedSequence([plan.seed, place]).generate_state(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar was an experiment before Optuna 5
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP, multivariate=False, constant_liar=True, seed=int(mixed[0])
            )
    low, high = min(plan.low, rate or plan.low), max(plan.high, rate or plan.high)
    chosen = float(trial.suggest_float("lr", low, high, log=True))
    if rate is None:
        trial.set_user_attr("lr", chosen)
        trial.set_user_attr("seeds", plan.seeds)
    return chosen


def _pruner(study: Any, plan: _Plan) -> Any:
    """The plan's, or the median's after the first quarter of a run."""
    pruners = sharing.optuna("pruners")
    if plan.prune is False:
        return pruners.NopPruner()
    if plan.prune is not True:
        return plan.prune
    ends = [row.step for row in _tried(study) if row.outcome == "finished"]
    return pruners.MedianPruner(STARTUP, n_warmup_steps=max(ends, default=0) // 4)


def _work(objective: Objective, study: Any, plan: _Plan, tick: Callable[[], object]) -> None:
    """Run trials until none is left, with a `tick` after each."""
    watch = sharing.Watch()
    rates = plan.rates()
    taken = sharing.optuna("exceptions").UpdateFinishedTrialError
    while trial := sharing.claim(study, rates, {"seeds": plan.seeds}, plan.total, watch):
        try:
            with sharing.Running(trial) as life:
                rate = _rate(study, trial, plan)
                study.pruner = _pruner(study, plan)
                _run(objective, study, trial, rate, plan, life)
        except taken:
            pass  # others took this process for dead: what they find counts
        except BaseException:  # Ctrl-C, too: others may take it up at once
            sharing.close(study, trial, "FAIL")
            raise
        tick()


def _run(
    objective: Objective, study: Any, trial: Any, rate: float, plan: _Plan, life: sharing.Running
) -> None:
    """Train with one rate, once a seed, and store what came of it."""
    ends: list[float] = []
    outcome: Outcome = "finished"
    last = reported = -1
    for seed in plan.seeds:
        # The first seed's losses alone are compared, with those of the same seed at other rates.
        looks = plan.prune is not False and seed == plan.seeds[0]
        # A rate that is too high overflows: that is a result here, not a reason to warn.
        with np.errstate(all="ignore"), contextlib.closing(_losses(objective, rate, seed)) as run:
            for count, (step, loss) in enumerate(run, 1):
                if life.lost:
                    return
                last, end = max(last, step), loss
                if not math.isfinite(loss):
                    outcome = "diverged"
                    break
                # Each look is written to the file: so few of them cost nothing.
                if looks and count & (count - 1) == 0:
                    trial.report(loss, step)
                    reported = step
                    if trial.should_prune():
                        outcome = "pruned"
                        break
        ends.append(end)
        if outcome != "finished":
            break
    if outcome == "diverged" and last > reported:
        trial.report(ends[-1], last)  # for the sampler: the later, the less bad
    trial.set_user_attr("run", {"outcome": outcome, "losses": ends, "step": last})
    if outcome == "finished":
        sharing.close(study, trial, "COMPLETE", math.fsum(ends) / len(ends))
    else:
        sharing.close(study, trial, "PRUNED")


def _losses(
    objective: Objective, rate: float, seed: int
) -> Generator[tuple[int, float], None, None]:
    """What the objective yields, as numbers; at least once.

    Raises:
        RuntimeError: the objective raised.
        TypeError, ValueError: it yielded something else, or nothing.
    """
    where = f"objective: at lr={rate:.6g}, seed={seed}"

    def guarded(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            text = f"{where} it raised {type(error).__name__}: {error}"
            raise RuntimeError(text) from error

    last = -1
    try:
        made = guarded(lambda: objective(rate, seed))
        if not isinstance(made, Iterable):
            raise TypeError(f"{where} it returned {made!r}, wanted it to yield (step, loss)")
        iterator, none = iter(made), object()
        with contextlib.ExitStack() as stack:
            if hasattr(iterator, "close"):
                stack.callback(iterator.close)
            while (item := guarded(lambda: next(iterator, none))) is not none:
                step, loss = _pair(item, where)
                if step <= last:
                    raise ValueError(f"{where} it yielded step {step} after {last}, wanted a later")
                last = step
                yield step, loss
    except RuntimeError as error:
        # Floats of Python's own overflow with an exception.
        if not isinstance(error.__cause__, OverflowError | FloatingPointError):
            raise
        last += 1
        yield last, math.inf
    if last < 0:
        raise ValueError(f"{where} it yielded nothing, wanted (step, loss)")


def _pair(item: Any, where: str) -> tuple[int, float]:
    """(step, loss), of any type that stands for one number."""
    try:
        step, loss = item
    except (TypeError, ValueError):
        raise TypeError(f"{where} it yielded {item!r}, wanted (step, loss)") from None
    try:
        at = operator.index(step)
    except TypeError:
        raise TypeError(f"{where} it yielded the step {step!r}, wanted a whole number") from None
    if at < 0:
        raise ValueError(f"{where} it yielded the step {at}, wanted 0 or more")
    try:
        if isinstance(loss, str | bytes):
            raise TypeError
        return at, float(loss)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{where} it yielded the loss {loss!r}, wanted one number, as loss.item() gives"
        ) from None


# ------------------------------------------------------------------------------------ processes


class _Trace(Exception):
    """A traceback of another process."""


def _worker(pipe: Connection, objective: bytes, plan: _Plan) -> None:
    """What a worker process does: its part of the trials; it sends the error that ends it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    try:
        with _quiet(), _studying(plan) as study:
            _work(pickle.loads(objective), study, plan, lambda: None)
    except KeyboardInterrupt:
        pass  # the parent got it, too
    except BaseException as error:
        kind = type(error) if type(error) in (RuntimeError, TypeError, ValueError) else None
        text = str(error) if kind else f"{type(error).__name__}: {error}"
        pipe.send((kind or RuntimeError, text, traceback.format_exc()))


def _processes(objective: Objective, plan: _Plan, workers: int, tick: Callable[[], object]) -> None:
    """Run the trials in so many processes, with a `tick` now and then; the first error ends all."""
    try:
        pickled = pickle.dumps(objective)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"objective: got {objective!r}, wanted a function at the top level of a module, which "
            "can be sent to worker processes; or workers=1, in several processes on one storage"
        ) from error
    context = multiprocessing.get_context("spawn")
    started = []
    try:
        for _ in range(workers):
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_worker, args=(theirs, pickled, plan), daemon=True)
            process.start()
            theirs.close()
            started.append((process, mine))
        left = list(started)
        while left:
            wait([process.sentinel for process, _ in left], timeout=0.2)
            tick()
            # Each code once, and before its pipe: a process may end at any of these lines.
            codes = [process.exitcode for process, _ in left]
            for (_, pipe), code in zip(left, codes, strict=True):
                with contextlib.suppress(EOFError):
                    if pipe.poll():
                        kind, text, trace = pipe.recv()
                        raise kind(text) from _Trace(f"\n{trace}")
                if code:
                    raise RuntimeError(
                        f"workers: a process ended with exit code {code}. Killed, for want of "
                        "memory? Or it could not import the objective: a script that searches "
                        'with workers needs `if __name__ == "__main__":`'
                    )
            left = [both for both, code in zip(left, codes, strict=True) if code is None]
    finally:
        for process, pipe in started:
            process.terminate()
            process.join()
            pipe.close()


# --------------------------------------------------------------------------------------- search


def search(
    objective: Objective,
    lr: tuple[float, float] = (1e-5, 1.0),
    *,
    method: Method = "grid",
    trials: int = 16,
    seeds: int | Sequence[int] = 1,
    workers: int = 1,
    storage: Path | str | Any = None,
    prune: bool | Any = False,
    seed: int = 0,
    progress: bool = True,
) -> SearchResult:
    """Train with several rates and compare where they end.

    Optuna does the work: TPE is its sampler, and it stores the trials and prunes. With one worker,
    the same arguments and an objective that depends on nothing else give the same result, also if
    the search was interrupted and continued.

    **Several processes, several machines.** Start the same script as often as you like with one
    `storage`: they share the trials, each rate is run once, and all return the same result. What a
    process that was killed was at is run again: at once if it ran on this machine (or 5 seconds
    later, if it was killed before it could begin), otherwise two minutes after its last sign of
    life. Machines need a file system that they share and that has locks, or a database server.

    **Workers** are processes started anew (`spawn`, on every system), because threads, and GPUs, do
    not survive a fork. So the objective is to be at the top level of a module, and a script that
    searches needs `if __name__ == "__main__":`. Each worker uses as many threads as its libraries
    take: with several, `OMP_NUM_THREADS=1` is mostly faster.

    Args:
        objective: called with a rate, float, and a seed, int; trains from the start with them and
            yields `(step, loss)`: whole numbers that increase, and one number each, the lower the
            better. **The last loss counts**: yield what is to be compared, such as the mean of an
            epoch or the loss on held-out data rather than that of one batch. A loss that is not
            finite, an OverflowError or a FloatingPointError end the run: the rate is `diverged`,
            which is a result.
        lr: the lowest and the highest rate to try.
        method: `grid`, `trials` rates in equal ratios, both ends among them; `random`, even over
            the logarithm; `tpe`, 5 at random and then where those so far let expect low losses.
        trials: how many rates. With a storage, what it holds counts: only the missing ones are run,
            and more trials than before top it up (a grid that is made finer keeps the rates that
            both have).
        seeds: how many runs with each rate, with the seeds 0, 1, …; or their seeds. They are told
            apart in the result, and their mean is compared.
        workers: processes to run the trials in; 1: in this one.
        storage: a file to keep the trials in, made where missing, in the format of Optuna's
            journal; or the URL of a database, a text with `://`, as SQLAlchemy and Optuna
            understand it (SQLite on one machine, PostgreSQL and MySQL for several, with a driver
            that is yours to install); or an object of Optuna's, not for SQLite and with one
            worker only; or nothing.
        prune: give a rate up on the way, where its first run is worse than the median of the others
            after as many steps (never before 5 have ended, or in their first quarter). Saves
            time, but is unfair to rates that start slowly. Or a pruner of Optuna's.
        seed: of `random` and `tpe`; not of the runs.
        progress: show a progress bar; there is none anyway where stderr is no terminal.

    Returns:
        All that came to an end, in this storage. ``.best`` is the rate with the lowest mean loss,
        ``str()`` a table; there are ``.to_dict()``, ``.to_csv(path)`` and ``.plot(path)``.

    Warns:
        UserWarning: the best rate is the lowest or the highest tried, so a better one may lie
            beyond; or no run finished.

    Raises:
        ImportError: Optuna is not installed (the extra `search`), or a database's driver.
        TypeError, ValueError: a bad argument, or an objective that yields something else than
            `(step, loss)`.
        RuntimeError: the objective raised: the message has the rate and the seed, the cause is what
            it raised. Or a worker process died. What was finished is kept in the storage; the next
            search goes on from there, and tries the rate again.
        OSError: the storage cannot be read or written.

    Example:
        >>> import numpy as np
        >>> import gradstep as gs
        >>> from gradstep.tuning import search
        >>> def objective(lr, seed):
        ...     w = np.random.default_rng(seed).normal(size=10)
        ...     optimizer = gs.SGD(w, lr=lr)
        ...     for step in range(300):
        ...         optimizer.step(w.copy())  # the gradient of the sum of w² ÷ 2
        ...         yield step, float(w @ w) / 2
        >>> result = search(objective, (1e-3, 10), trials=5, seeds=2)
        >>> print(result)
         rate  mean loss of 2       lowest      highest
        ─────  ──────────────  ───────────  ───────────  ────────────────────
        0.001         1.37604       1.2252      1.52689
         0.01      0.00603192   0.00537069   0.00669315
          0.1     8.80734e-28  7.84186e-28  9.77282e-28
            1               0            0            0  best
           10               -            -            -  diverged at step 161
        >>> result.best
        1.0
    """
    plan = _plan(lr, method, trials, seeds, storage, prune, seed)
    workers = whole("workers", workers, 1)
    if workers > 1 and not isinstance(plan.storage, Path | str | None):
        raise TypeError(
            f"storage: got {storage!r}, wanted a path or a URL, for {workers} workers open it"
        )
    _takes_rate_and_seed(objective)
    bar_of = bars("the progress bar of a search", "search")  # Optuna would have tqdm warn
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        if workers > 1 and plan.storage is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gradstep-"))
            plan = replace(plan, storage=Path(folder) / "search.log")
        study = stack.enter_context(_studying(plan))
        bar = stack.enter_context(bar_of(total=trials, unit="rate", quiet=not progress))

        def tick() -> None:
            if not bar.disable:
                result = SearchResult(_tried(study), plan.seeds, (plan.low, plan.high), method)
                bar.n = min(trials, _ended(result.tried, plan))
                bar.set_postfix_str("" if result.best is None else f"best {result.best:.6g}")

        if workers == 1:
            _work(objective, study, plan, tick)
        else:
            _processes(objective, plan, min(workers, trials), tick)
        result = SearchResult(_tried(study), plan.seeds, (plan.low, plan.high), method)
    _warn(result)
    return result


def _takes_rate_and_seed(objective: Any) -> None:
    wanted = f"objective: got {objective!r}, wanted a function of a rate and a seed"
    if not callable(objective):
        raise TypeError(wanted)
    try:
        signature = inspect.signature(objective)
    except ValueError:  # some that are written in C do not tell
        return
    try:
        signature.bind(1.0, 0)
    except TypeError:
        raise TypeError(wanted) from None


def _ended(tried: Sequence[Tried], plan: _Plan) -> int:
    """How many of the plan's trials came to an end."""
    if plan.total:
        return len(tried)
    return sum(any(sharing.same(rate, row.rate) for row in tried) for rate in plan.rates())


def _warn(result: SearchResult) -> None:
    """Say what the result alone does not show."""
    if result.best is None:
        text = "search: no rate came to its end; try lower ones"
    elif result.edge:
        end = "lowest" if result.edge == "low" else "highest"
        text = (
            f"search: the best rate, {result.best:.6g}, is the {end} that was tried: a better one "
            f"may lie beyond; move lr's {result.edge} end, now {result.lr[result.edge == 'high']:g}"
        )
    else:
        return
    warnings.warn(text, UserWarning, stacklevel=3)
