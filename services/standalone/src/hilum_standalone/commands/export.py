"""`hilum export`: a study's result as files."""

from pathlib import Path

import click

from hilum_standalone.commands.show import known_study
from hilum_standalone.options import Unusable, cluster_of, config_option, data_option, ledger_of


@click.command()
@click.argument("study_uid")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder to write to.")
@data_option
@config_option
def export(study_uid: str, out: Path, data: Path, config: Path | None) -> None:
    """Write the newest result of a study to a folder: sr.dcm, bundle.json and oru.hl7, the bytes that are delivered."""
    with ledger_of(data, cluster=cluster_of(data, config)) as connection:
        from hilum.adapters.sql.ledger import encoding
        from hilum.domain.results import Format

        names = {Format.SR: "sr.dcm", Format.FHIR: "bundle.json", Format.ORU: "oru.hl7"}
        detail = known_study(connection, study_uid)
        contents = {names[format]: encoding(connection, study_uid, format) for format in Format}
    if not any(contents.values()):
        raise click.ClickException(f"{study_uid} has no result: {detail.row.state}, {detail.row.reason}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if content is not None:
                (out / name).write_bytes(content)
                click.echo(str(out / name))
    except OSError as error:
        raise Unusable(f"can't write to {out}: {error.strerror}") from error
    missing = [name for name, content in contents.items() if content is None]
    if missing:
        raise click.ClickException(f"this result has no {', '.join(missing)}")
