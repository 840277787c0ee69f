"""`python -m hilum_worker --data DIR [--config FILE] [--checkpoint DIR]`: the composition root of the worker.

With `[model] servers` in the configuration it asks those; else it runs the checkpoint in its own process.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hilum.adapters.dependencies import checks_of
from hilum.adapters.eventlog import event_log
from hilum.adapters.instances import open_instances
from hilum.adapters.sql.clock import clock_of
from hilum.adapters.sql.database import open_state
from hilum.domain.errors import Busy
from hilum.ports.model import Model
from hilum.runtime import logs
from hilum.runtime.cluster import SecretMissing
from hilum.runtime.config import ConfigError, load
from hilum.runtime.health import Health
from hilum.runtime.lifecycle import announce_ready, stop_on_signals, stop_with_parent
from hilum_medmo import CheckpointError
from hilum_worker import medmo
from hilum_worker.models import model_of
from hilum_worker.settings import Settings
from hilum_worker.transport.serve import serve, wait_for_schema


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hilum_worker", description="Asks MedMO about studies.")
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--config", type=Path, help="hilum.toml")
    parser.add_argument("--checkpoint", type=Path, help="a folder with a MedMO checkpoint; MedMO-Nano without it")
    parser.add_argument("--name", default="worker", help="of several on one data folder: run/NAME.ready")
    given = parser.parse_args(arguments)
    logs.configure("worker")
    warnings.simplefilter("ignore")  # pydicom's quote values of the file
    log = logs.Log("hilum.worker")
    try:
        site = load(given.config)
        engine = open_state(given.data, site.cluster, application="hilum-worker")
        store = open_instances(given.data, site.cluster)
        checks = checks_of(engine, site.cluster)
        clock = clock_of(engine)
        events = event_log(engine, site.cluster, clock)
    except (ConfigError, SecretMissing) as error:
        print(error, file=sys.stderr)
        return 2
    checkpoint = given.checkpoint or site.model.checkpoint or medmo.default_checkpoint()
    settings = Settings.of(site, data=given.data, checkpoint=checkpoint)
    stop = stop_on_signals()
    stop_with_parent(stop)
    loaded: list[Model] = []
    Health(settings.data, given.name, {**checks, "model": partial(_check_model, loaded)}).start(stop)
    try:
        model = model_of(settings, stop)
    except CheckpointError as error:
        log.error("no usable model", reason=str(error))
        return 2
    if model is None:
        return 0
    loaded.append(model)
    wait_for_schema(engine, stop)
    if stop.is_set():
        return 0
    announce_ready(settings.data, given.name)
    try:
        return serve(settings, engine, model, store, clock, stop, events=events)
    finally:
        engine.dispose()


def _check_model(loaded: Sequence[Model]) -> None:
    """Raises: Busy: no model yet, or none that answers now."""
    if not loaded:
        raise Busy("none is loaded, or no model server has said which it has")
    loaded[0].ready()


if __name__ == "__main__":
    sys.exit(main())
