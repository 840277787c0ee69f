"""The `hilum` command."""

import importlib

import click

COMMANDS = {
    "up": "Start everything and stay up.",
    "send": "Send DICOM files or folders to an application entity.",
    "studies": "List the studies in reading order.",
    "show": "Show one study: ledger, findings, deliveries.",
    "ask": "Ask MedMO a question about a study.",
    "deliveries": "List what is parked or queued, and put parked deliveries back.",
    "migrate": "Bring the database to this release's schema, or to another revision.",
    "reindex": "After the database was lost: index what lies in the spool and nobody knows any more.",
    "dead-letters": "List, show and publish again messages that no service could handle.",
    "topics": "Make or change the topics of a cluster's Kafka.",
    "export": "Write a study's SR, FHIR bundle and ORU message to a folder.",
    "doctor": "Say what is set up, what is missing and what to do.",
}
"""Each command is the function of its own name in the module of its own name under hilum_standalone.commands."""


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hilum-standalone")
    except PackageNotFoundError:
        return "(not installed; run: make setup)"


class Commands(click.Group):
    """Imports a command's module when the command is called, and not for the list of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        found = getattr(importlib.import_module(f"hilum_standalone.commands.{name}"), name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="hilum")
def main() -> None:
    """Hilum: DICOM studies go in; grounded SR, FHIR and HL7 come out.

    No medical device. Its own model, MedMO-Nano, was trained on generated images and is not for patients.
    """


if __name__ == "__main__":
    main(prog_name="hilum")
