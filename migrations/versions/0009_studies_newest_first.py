"""All studies, newest images first, without sorting all of them

Expands only: an index.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_studies_newest", "studies", ["last_received_at"])


def downgrade() -> None:
    op.drop_index("ix_studies_newest", "studies")
