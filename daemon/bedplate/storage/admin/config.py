"""Configuration of AdminService: section `admin`."""

from pydantic import Field

from bedplate.storage.config import Section


class AdminConfig(Section):
    """Operating the daemon."""

    backup_seconds_max: int = Field(
        default=3600,
        ge=1,
        le=86_400 * 7,
        description="Seconds a Backup may take; it holds back the reclaiming of space meanwhile.",
    )
