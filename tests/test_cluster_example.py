"""The example of a Ray cluster is one that Ray's launcher accepts."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

EXAMPLE = Path(__file__).parents[1] / "examples" / "ray_cluster.yaml"


def test_rays_launcher_accepts_the_example():
    config = yaml.safe_load(EXAMPLE.read_text())
    validate_config(prepare_config(config))


def test_rays_launcher_would_refuse_another_one():
    config = yaml.safe_load(EXAMPLE.read_text())
    del config["provider"]["type"]
    with pytest.raises(Exception, match="type"):
        validate_config(config)
