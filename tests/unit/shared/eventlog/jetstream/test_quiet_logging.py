"""The log's client keeps quiet for a command, and for no longer."""

from __future__ import annotations

import logging

import pytest

from shared.eventlog.jetstream.quiet_logging import NAME, quiet_logging


def test_it_is_silent_inside_and_heard_before_and_after(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=NAME)
    logger = logging.getLogger(f"{NAME}.connection")
    logger.warning("before")
    with quiet_logging():
        logger.warning("inside")
        logger.critical("all is lost")
    logger.warning("after")
    assert [record.message for record in caplog.records] == ["before", "all is lost", "after"]


def test_scopes_that_overlap_end_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=NAME)
    first, second = quiet_logging(), quiet_logging()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    logging.getLogger(f"{NAME}.connection").warning("the second still lasts")
    second.__exit__(None, None, None)
    logging.getLogger(f"{NAME}.connection").warning("nobody is quiet")
    assert [record.message for record in caplog.records] == ["nobody is quiet"]


def test_it_ends_with_an_error_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=NAME)
    with pytest.raises(RuntimeError), quiet_logging():
        raise RuntimeError
    logging.getLogger(f"{NAME}.connection").warning("heard")
    assert caplog.messages == ["heard"]
