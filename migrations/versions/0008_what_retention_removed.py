"""What retention removed: when, how much and why

Expands only: a new table, so the release before goes on with the same database.
"""

import sqlalchemy as sa
from alembic import op

from hilum.adapters.sql.schema import refuse_to_lose

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "expirations",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("expired_at", sa.BigInteger(), nullable=False),
        sa.Column("instance_count", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", "expired_at", name=op.f("pk_expirations")),
        comment="listener/assemble: the images that retention removed, when and why",
    )


def downgrade() -> None:
    refuse_to_lose(op.get_bind(), "expirations")
    op.drop_table("expirations")
