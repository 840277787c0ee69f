"""PostgreSQL beside SQLite: the order of a study's senders in a column, where SQLite's rowid told it

Expands only: a column that may be null, so the release before goes on with the same database.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("study_senders", schema=None) as batch_op:
        batch_op.add_column(sa.Column("number", sa.Integer(), nullable=True))
    if op.get_context().dialect.name == "sqlite":
        op.execute("UPDATE study_senders SET number = rowid")


def downgrade() -> None:
    with op.batch_alter_table("study_senders", schema=None) as batch_op:
        batch_op.drop_column("number")
