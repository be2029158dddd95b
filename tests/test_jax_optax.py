"""optax's own tests of its aliases and wrappers, which come with optax, run for our rules."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is in the jax extra")
optax = pytest.importorskip("optax", reason="optax is in the jax extra")
gj = pytest.importorskip(
    "gradstep.jax", reason="gradstep was built without GRADSTEP_JAX=1", exc_type=ImportError
)
alias_test = pytest.importorskip("optax._src.alias_test", reason="optax came without its tests")
contrib_test = pytest.importorskip("optax.contrib._common_test")
from optax._src import test_utils  # noqa: E402

# What optax tests of each, where we have it: its name and arguments.
ALIASES = [
    ("adadelta", {"learning_rate": 0.1}),
    ("adadelta", {}),
    ("adafactor", {"learning_rate": 5e-3}),
    ("adagrad", {"learning_rate": 1.0}),
    ("adam", {"learning_rate": 1e-1}),
    ("adamax", {"learning_rate": 1e-1}),
    ("adamw", {"learning_rate": 1e-1}),
    ("adan", {"learning_rate": 1e-1}),
    ("lamb", {"learning_rate": 1e-3}),
    ("lars", {"learning_rate": 1.0}),
    ("lion", {"learning_rate": 1e-2, "weight_decay": 1e-4}),
    ("nadam", {"learning_rate": 1e-2}),
    ("polyak_sgd", {"max_learning_rate": 1.0}),
    ("radam", {"learning_rate": 5e-3}),
    ("rmsprop", {"learning_rate": 5e-3}),
    ("rmsprop", {"learning_rate": 5e-3, "momentum": 0.9}),
    ("rprop", {"learning_rate": 1e-1}),
    ("sgd", {"learning_rate": 1e-3, "momentum": 0.9}),
    ("sign_sgd", {"learning_rate": 1e-1}),
]
CONTRIB = [
    ("ademamix", {"learning_rate": 1e-3}),
    ("adopt", {"learning_rate": 1e-2}),
    ("dadapt_adamw", {"learning_rate": 1e-1}),
    ("dog", {"learning_rate": 1.0}),
    ("dowg", {"learning_rate": 1.0}),
    ("prodigy", {"learning_rate": 1e-1}),
]
IDS = {"ids": lambda value: value if isinstance(value, str) else None}
TARGETS = {"parabola": alias_test._setup_parabola, "rosenbrock": alias_test._setup_rosenbrock}


def doubles(tree):
    """A state with its rule's memory as the numbers that it is, to be compared."""

    def shown(leaf):
        leaf = np.asarray(leaf)
        return leaf.view(np.float64) if leaf.dtype == np.uint32 else leaf

    return jax.tree.map(shown, tree)


@pytest.fixture(autouse=True)
def _ours_instead(monkeypatch):
    monkeypatch.setattr(alias_test, "_get_opt", lambda _, name: getattr(gj, name))
    monkeypatch.setattr(contrib_test, "_get_opt_factory", lambda name: getattr(gj, name))
    close = test_utils.assert_trees_all_close
    monkeypatch.setattr(
        test_utils,
        "assert_trees_all_close",
        lambda a, b, **kwargs: close(doubles(a), doubles(b), **kwargs),
    )


def call(case, name, **arguments):
    """Run the body of a test of optax's with these arguments."""
    generated = f"{name}0"  # as absl names the first of its parameters
    vars(case)[generated].__wrapped__(case(generated), **arguments)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "kwargs"), ALIASES, **IDS)
def test_optimization(name, kwargs, target):
    if name in ("sign_sgd", "adafactor") and target == "rosenbrock":
        pytest.skip(f"{name} wants a schedule there, as optax says of sign_sgd")
    call(
        alias_test.AliasTest, "test_optimization",
        opt_name=name, opt_kwargs=kwargs, target=TARGETS[target], dtype=jax.numpy.float32,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs"), ALIASES, **IDS)
@pytest.mark.parametrize(
    "test",
    ["test_optimizers_accept_extra_args", "test_optimizers_can_be_wrapped_in_inject_hyperparams"],
)
def test_alias(name, kwargs, test):
    if name == "adafactor" and "inject" in test:
        pytest.skip("the test names an argument of optax's adafactor, whose rule is another")
    call(alias_test.AliasTest, test, opt_name=name, opt_kwargs=kwargs)


@pytest.mark.parametrize(("name", "kwargs"), ALIASES, **IDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("test", ["test_preserve_dtype", "test_gradient_accumulation"])
def test_alias_dtypes(name, kwargs, dtype, test):
    call(alias_test.AliasTest, test, opt_name=name, opt_kwargs=kwargs, dtype=dtype)


@pytest.mark.parametrize(("name", "kwargs"), ALIASES, **IDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_alias_stability(name, kwargs, dtype):
    call(
        alias_test.AliasTest, "test_state_shape_dtype_shard_stability",
        opt_name=name, opt_kwargs=kwargs, dtype=getattr(jax.numpy, dtype),
    )  # fmt: skip


WRAPPERS = [
    ("mechanize", {"weight_decay": 0.0}, "sgd", {"learning_rate": 1e-1}),
    ("schedule_free", {"learning_rate": 1e-2}, "sgd", {"learning_rate": 1e-2}),
    ("reduce_on_plateau", {}, "sgd", {"learning_rate": 1e-3}),
    *[
        ("mechanize", {"weight_decay": 0.0}, name, {"learning_rate": 1.0, **more})
        for name, more in (
            ("sgd", {"momentum": 0.9}), ("adam", {}), ("adamw", {}), ("adamax", {}), ("adan", {}),
            ("lamb", {}), ("lion", {"b1": 0.99}), ("rmsprop", {}), ("rmsprop", {"momentum": 0.9}),
            ("radam", {}),
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(
    "target", ["_setup_parabola", "_setup_rosenbrock", "_setup_matrix_parabola",
               "_setup_mixed_tensor_target"]
)  # fmt: skip
@pytest.mark.parametrize(
    ("wrapper", "options", "name", "kwargs"),
    [(None, None, name, kwargs) for name, kwargs in CONTRIB] + WRAPPERS,
    **IDS,
)
@pytest.mark.slow
def test_contrib_optimizers(wrapper, options, name, kwargs, target):
    call(
        contrib_test.ContribTest, "test_optimizers",
        opt_name=name, opt_kwargs=kwargs, wrapper_name=wrapper, wrapper_kwargs=options,
        target=getattr(contrib_test, target), dtype="float32",
    )  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs"), CONTRIB, **IDS)
@pytest.mark.parametrize(
    ("test", "more"),
    [
        ("test_optimizers_accept_extra_args", {"wrap": False}),
        ("test_optimizers_can_be_wrapped_in_inject_hyperparams", {}),
        ("test_preserve_dtype", {"dtype": "bfloat16"}),
        ("test_preserve_dtype", {"dtype": "float32"}),
        ("test_gradient_accumulation", {"dtype": "float32"}),
        ("test_state_shape_dtype_shard_stability", {"dtype": jax.numpy.float64}),
        ("test_state_shape_dtype_shard_stability", {"dtype": jax.numpy.float16}),
    ],
    ids=str,
)
def test_contrib(name, kwargs, test, more):
    call(
        contrib_test.ContribTest, test,
        opt_name=name, opt_kwargs=kwargs, wrapper_name=None, wrapper_kwargs=None, **more,
    )  # fmt: skip
