"""Tests of the command line: no settings of the user's and no network."""

import urllib.request

import pytest


@pytest.fixture(autouse=True)
def _own_environment(own_environment, monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("the network was used")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
