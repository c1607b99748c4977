"""The packages for the wheel: all of permlab/, and conf/ as permlab.conf, which no automatic search can map."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["permlab", "permlab.*"]), "permlab.conf"])
