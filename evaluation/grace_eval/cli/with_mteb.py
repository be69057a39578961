"""Actions that need mteb: it is there, and its notices stay out of their output."""

from __future__ import annotations

import argparse
import functools
import logging
import warnings
from collections.abc import Callable

from grace_st.cli.command import CommandError
from grace_st.cli.terminal import quiet_libraries


def with_mteb(work: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """An action that needs mteb, whose notices and warnings are kept out of its output."""

    @functools.wraps(work)
    def run(arguments: argparse.Namespace) -> int:
        try:
            import grace_st.mteb  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name != "mteb":
                raise
            raise CommandError(str(error)) from error
        import datasets

        quiet_libraries()
        datasets.disable_progress_bars()
        # That a task of the paper's benchmark has a newer version is no news, and would come with each of them. Nor can
        # a user do anything about how long mteb lets scikit-learn's classifiers converge.
        logging.getLogger("mteb").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(mteb|sklearn)\.")
            return work(arguments)

    return run
