"""What operators may set for the deployer (`CLOCHE_DEPLOYER__<FIELD>`)."""

from pydantic import BaseModel, ConfigDict, Field


class DeployerSettings(BaseModel):
    """Settings of the deployer; seconds where nothing else is said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    drain: float = Field(
        default=30.0, ge=0, description="How long a former revision may finish its requests, at least."
    )
    grace: float = Field(default=5.0, ge=0, description="Between asking a worker to end and killing it.")
    orphan_after: float = Field(default=60.0, gt=0, description="After which a worker without a front ends itself.")
    retry_pause: float = Field(default=5.0, gt=0, description="Between tries while a part of the node does not answer.")
    look_every: float = Field(
        default=30.0, gt=0, description="Between two looks at every service, where several replicas share a journal."
    )
    max_body: int = Field(default=100 * 1024 * 1024, ge=1, description="Bytes of a scoring request's body at most.")
    log_kept: int = Field(default=256 * 1024, ge=1024, description="Bytes of ended workers' logs kept per service.")
    sweep_every_s: float = Field(
        default=3600.0, ge=0, description="Between two passes that write all lists again; 0: never."
    )
    max_snapshot_bytes: int = Field(
        default=300 * 1024 * 1024, ge=1, description="Bytes of code that a service may have."
    )
