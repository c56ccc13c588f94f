"""The image of the market, `docker/market`: what it is made of, held against what is there.  It builds nothing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "docker" / "market"
RECIPE = (IMAGE / "Dockerfile").read_text()


def test_all_that_goes_into_the_image_is_there_and_is_let_through():
    """A build ends at its first COPY of what was renamed, or is left out of the context."""
    sources = {source for line in re.findall(r"^COPY (.+)$", RECIPE, re.MULTILINE) for source in line.split()[:-1]}
    assert "src" in sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    let_through = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert sources - {"examples/data"} == let_through, "which is in examples, and comes first"


def test_what_the_package_links_to_is_there_before_it_is_installed():
    """A wheel with a link to nowhere is not built, and neither is the image."""
    links = [one.resolve() for one in (ROOT / "src").rglob("*") if one.is_symlink()]
    before = RECIPE.partition("RUN pip install")[0]
    copied = [
        ROOT / source for line in re.findall(r"^COPY (.+)$", before, re.MULTILINE) for source in line.split()[:-1]
    ]
    assert links
    assert [link for link in links if not any(link.is_relative_to(one) for one in copied)] == []


def test_the_image_has_what_the_market_says_that_it_needs():
    """What is missing would be found by whoever starts the container."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = re.search(r'pip install --no-cache-dir "\.\[(.+?)\]" (.+)', RECIPE)
    assert installed
    extras = set(installed[1].split(","))
    assert extras <= project["optional-dependencies"].keys()
    market = (ROOT / "examples" / "market" / "market.py").read_text()
    needs = re.search(r"Needs gridsync with the extras (.+?), and (.+?)\.\n", market)
    assert needs
    assert extras | {"embedded"} == set(re.split(r", | and ", needs[1])), "its server is another container"
    assert installed[2].split() == needs[2].split(" and ")


def test_what_is_run_is_there_and_takes_the_options_that_it_is_given():
    market = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["market"]
    assert (ROOT / "docker" / market["build"]["context"]).resolve() == ROOT
    assert (ROOT / market["build"]["dockerfile"]) == IMAGE / "Dockerfile"
    entry = re.search(r'ENTRYPOINT \["python", "(.+)"\]', RECIPE)
    assert entry
    program = (ROOT / entry[1]).read_text()
    options = [word for word in market["command"] if word.startswith("--")]
    assert options
    assert [option for option in options if f'add_argument("{option}"' not in program] == []
