"""`hilum ask`: a free question about a study."""

from pathlib import Path

import click

from hilum_standalone.commands.show import known_study
from hilum_standalone.options import config_option, data_option, json_option, ledger_of, read_site, running_config


@click.command()
@click.argument("study_uid")
@click.argument("question")
@click.option("--image", type=click.IntRange(min=1), default=1, show_default=True, help="Which of the study's images.")
@data_option
@config_option
@json_option
def ask(study_uid: str, question: str, image: int, data: Path, config: Path | None, as_json: bool) -> None:
    """Ask MedMO a QUESTION about a study, for example 'Is there a pneumothorax?'. The answer is stored nowhere."""
    import json

    site = read_site(config or running_config(data))
    with ledger_of(data, cluster=site.cluster) as connection:
        state = known_study(connection, study_uid).row
    from hilum.domain.errors import HilumError
    from hilum_worker.ask import ask as ask_model

    try:
        asked = ask_model(data, study_uid, question, site=site, image=image)
    except HilumError as error:
        raise click.ClickException(f"{error.reason}; the study is {state.state}: {state.reason}") from error
    if as_json:
        told = {
            "study_uid": study_uid,
            "question": asked.question,
            "answer": asked.text,
            "sop_instance_uid": asked.image.sop_instance_uid,
            "model": f"{asked.model.name} {asked.model.version}",
            "digest": asked.model.digest,
            "disclaimer": asked.model.disclaimer,
            "seconds": asked.seconds,
        }
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    click.echo(asked.text)
    of = f", image {image} of {asked.images}" if asked.images > 1 else ""
    click.echo(
        f"{asked.model.name} {asked.model.version}{of}, {asked.seconds:.1f} s. {asked.model.disclaimer}", err=True
    )
