"""Every key of Lightning's Trainer, and every callback and logger that ships with it, works here, means something, or
is refused with the key to use in its place (docs/trainer.md).
"""

import inspect

import lightning as L
import pytest
from jsonargparse import Namespace
from lightning.pytorch import callbacks, loggers

from shear_lit.training.errors import RunError
from shear_lit.training.shipped import CALLBACKS, LOGGERS, Standing, check_shipped, open_loggers
from shear_lit.training.time_limit import duration_of
from shear_lit.training.trainer_settings import KEYS, check_trainer
from tests.training.trainer_page import PAGE, rewritten

OWN_DEFAULTS = {
    "max_steps": 3200,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}
"""What ``fit`` says to the Trainer where the user says nothing, as far as Lightning's own default would be refused."""


def unclassified(class_, known):
    return set(inspect.signature(class_.__init__).parameters) - {"self", "kwargs"} ^ set(known)


def test_every_parameter_of_the_trainer_is_classified():
    assert unclassified(L.Trainer, KEYS) == set()


def test_a_new_parameter_would_be_seen():
    class Newer(L.Trainer):
        def __init__(self, turbo=False, **kwargs):
            super().__init__(**kwargs)

    assert "turbo" in unclassified(Newer, KEYS)


@pytest.mark.parametrize(("module", "known"), [(callbacks, CALLBACKS), (loggers, LOGGERS)])
def test_every_class_that_ships_with_lightning_is_classified(module, known):
    assert set(module.__all__) == set(known)


def test_page_has_the_tables_of_the_code():
    """``python -m tests.training.trainer_page`` writes them."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == rewritten(page)


def test_what_is_refused_is_said_with_the_way_out():
    refused = {
        name: entry
        for table in (KEYS, CALLBACKS, LOGGERS)
        for name, entry in table.items()
        if entry.standing is Standing.REFUSED
    }
    assert len(refused) > 25
    for name, entry in refused.items():
        assert any(word in entry.says for word in ("eave it out", "Remove it", "Use ")), name
        assert not entry.says.endswith("."), name


def settings(**others):
    parameters = inspect.signature(L.Trainer.__init__).parameters
    defaults = {name: parameters[name].default for name in KEYS}
    return Namespace(**{**defaults, **OWN_DEFAULTS, **others})


def test_defaults_are_refused_by_nothing():
    check_trainer(settings())


@pytest.mark.parametrize("key", [name for name, key in KEYS.items() if key.standing is Standing.REFUSED])
def test_refused_keys_refuse(key):
    value = {
        "enable_checkpointing": False,
        "enable_autolog_hparams": False,
        "check_val_every_n_epoch": 2,
    }.get(key, 0.5 if key.startswith("limit") else 7)
    with pytest.raises(RunError, match=rf"^trainer\.{key}=") as refused:
        check_trainer(settings(**{key: value}))
    assert str(refused.value).endswith(f"{KEYS[key].says}.")


@pytest.mark.parametrize(
    "key", ["limit_train_batches", "limit_val_batches", "limit_test_batches", "val_check_interval"]
)
def test_one_batch_is_not_all_of_them(key):
    """1.0 is Lightning's way to say all, 1 that of one batch; they are equal."""
    check_trainer(settings(**{key: 1.0}))
    with pytest.raises(RunError, match=key):
        check_trainer(settings(**{key: 1}))


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("lightning.pytorch.plugins.HalfPrecision", "trainer.precision"),
        ("lightning.pytorch.plugins.AsyncCheckpointIO", "Leave it out"),
        ("lightning.pytorch.plugins.TorchSyncBatchNorm", "Leave it out"),
    ],
)
def test_plugins_that_change_what_a_run_sets_up_are_refused(path, remedy):
    plugin = Namespace(class_path=path, init_args=Namespace())
    for plugins in (plugin, [plugin]):
        with pytest.raises(RunError, match=f"{path.rsplit('.')[-1]} .*{remedy}"):
            check_trainer(settings(plugins=plugins))
    check_trainer(
        settings(
            plugins=[Namespace(class_path="lightning.pytorch.plugins.environments.LightningEnvironment")]
        )
    )


def test_classes_that_are_refused_are_named_with_the_reason():
    for name, entry in CALLBACKS.items():
        named = Namespace(class_path=f"lightning.pytorch.callbacks.{name}")
        if entry.standing is Standing.REFUSED:
            with pytest.raises(RunError, match=f"trainer.callbacks={name} .*{entry.says[:20]}"):
                check_shipped("callbacks", [named], CALLBACKS)
        else:
            check_shipped("callbacks", [named], CALLBACKS)


def test_comet_without_its_service_is_refused():
    comet = Namespace(class_path="lightning.pytorch.loggers.CometLogger", init_args=Namespace(online=False))
    with pytest.raises(RunError, match="writes nothing"):
        check_shipped("logger", comet, LOGGERS)


def test_logger_that_does_not_begin_is_named():
    class Service:
        @property
        def experiment(self):
            raise OSError("no API key\nis configured.")

    with pytest.raises(
        RunError, match=r"trainer\.logger=Service does not begin: no API key is configured\. Correct"
    ):
        open_loggers([Service()])


@pytest.mark.parametrize("time", ["01:00", "00:00:00:00", "soon", "-1", {"hours": 0}])
def test_times_that_no_run_can_take_are_refused(time):
    with pytest.raises(RunError, match=r"trainer\.max_time="):
        check_trainer(settings(max_time=time))


def test_time_is_days_hours_minutes_and_seconds():
    assert duration_of("01:02:03:04").total_seconds() == ((24 + 2) * 60 + 3) * 60 + 4
    assert duration_of({"hours": 2}).total_seconds() == 7200
