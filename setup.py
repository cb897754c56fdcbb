"""All metadata is in setup.cfg; this file is what runs it."""

from setuptools import setup

setup()
