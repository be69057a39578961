"""Publishing: is a model folder fit for others, and the upload to the Hugging Face hub."""

from grace_st.publish.checks import Check, PublishError, Readiness, check_folder, check_loading
from grace_st.publish.hub import HubError, Published, upload, user_name

__all__ = [
    "Check",
    "HubError",
    "PublishError",
    "Published",
    "Readiness",
    "check_folder",
    "check_loading",
    "upload",
    "user_name",
]
