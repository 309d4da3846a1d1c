"""Lists the packages. pyproject.toml can either find them or map a folder to another name, and agents/ needs both."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["sam4mllm_tool", "sam4mllm_tool.*"]), "sam4mllm_tool.agents"])
