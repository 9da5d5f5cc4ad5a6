"""Accuracies of candidates, and the protocols they were taken by."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accuracy_protocols",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("facts", sa.JSON, nullable=False),
    )
    op.create_table(
        "accuracies",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("plan_key", sa.String(64), nullable=False),
        sa.Column("widths", sa.JSON, nullable=False),
        sa.Column("metric", sa.Float, nullable=False),
        sa.Column("images", sa.Integer),
        sa.Column("found_at_s", sa.Float, nullable=False),
    )
    op.create_index("ix_accuracies_plan", "accuracies", ["protocol", "plan_key"])


def downgrade() -> None:
    op.drop_table("accuracies")
    op.drop_table("accuracy_protocols")
