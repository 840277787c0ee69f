"""What keeps the reading list as quick after a million studies as after one

Expands only: a column with a default and indexes, so the release before goes on with the same database. The column is
filled by the assembler, little by little.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("revisions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("closed", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index(
        "ix_revisions_open",
        "revisions",
        ["study_instance_uid", "revision"],
        sqlite_where=sa.text("closed = 0"),
        postgresql_where=sa.text("NOT closed"),
    )
    op.create_index("ix_outcomes_ended", "outcomes", ["ended_at"])
    op.create_index(
        "ix_deliveries_parked",
        "deliveries",
        ["study_instance_uid"],
        sqlite_where=sa.text("state = 'parked'"),
        postgresql_where=sa.text("state = 'parked'"),
    )


def downgrade() -> None:
    op.drop_index("ix_deliveries_parked", "deliveries")
    op.drop_index("ix_outcomes_ended", "outcomes")
    op.drop_index("ix_revisions_open", "revisions")
    with op.batch_alter_table("revisions", schema=None) as batch_op:
        batch_op.drop_column("closed")
