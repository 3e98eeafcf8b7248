"""Spellings of model names, against what Ollama v0.32.15 makes of them."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate import names


def key_of(raw: str) -> str | None:
    name = names.parse(raw)
    return None if name is None else name.key


def short_of(raw: str) -> str:
    name = names.parse(raw)
    assert name is not None
    return name.short


@pytest.mark.parametrize(
    "raw",
    [
        "llama3",
        "llama3:latest",
        "LLAMA3",
        "  llama3\t\n",
        "\u00a0llama3\u3000",
        "library/llama3",
        "registry.ollama.ai/library/llama3:latest",
        "https://registry.ollama.ai/library/llama3",
        "https:///library/llama3",
        "llama3:local",
        "llama3: LOCAL ",
    ],
)
def test_all_spellings_of_one_name_are_one_key(raw: str) -> None:
    assert key_of(raw) == "registry.ollama.ai/library/llama3:latest"


@pytest.mark.parametrize(
    ("raw", "short"),
    [
        ("llama3", "llama3:latest"),
        ("Llama3:8B", "Llama3:8B"),
        ("Library/llama3", "llama3:latest"),
        ("user/m:tag", "user/m:tag"),
        ("hf.co/u/r:Q4", "hf.co/u/r:Q4"),
        ("localhost:5000/library/m", "localhost:5000/library/m:latest"),
        ("REGISTRY.ollama.ai/u/m", "u/m:latest"),
    ],
)
def test_a_name_is_shown_without_defaults_but_with_its_tag(raw: str, short: str) -> None:
    assert short_of(raw) == short


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "   ",
        ":",
        "m:",
        ":tag",
        "/m",
        "u/",
        "u//m",
        "https://u/m",
        "a/b/c/d",
        "m@sha256:abc",
        "-m",
        ".m",
        "m m",
        "mödel",
        "u.v/m",
        "m:a:b/c",
        "m:tag:more",
        "x:cloud:local",
        "x:8b-cloud:cloud",
        "\x1cm",
        "m" * 81,
        "h" * 351 + "/u/m",
    ],
)
def test_what_no_model_can_be_called_is_no_name(raw: str) -> None:
    assert names.parse(raw) is None


@pytest.mark.parametrize("raw", ["m" * 80, "h" * 350 + "/u/m", "_", "0/0:0", "a.b:c.d"])
def test_the_longest_and_oddest_valid_names_are_names(raw: str) -> None:
    assert names.parse(raw) is not None


@pytest.mark.parametrize(
    ("raw", "local"),
    [
        ("qwen3:cloud", "qwen3"),
        ("gpt-oss:120b-cloud", "gpt-oss:120b"),
        ("gpt-oss:120b:cloud", "gpt-oss:120b"),
        ("gpt-oss:120b-CLOUD", "gpt-oss:120b"),
        ("u/m:Cloud", "u/m"),
        (" m : cloud ", None),
    ],
)
def test_a_suffix_asks_for_the_cloud_and_is_no_part_of_the_name(
    raw: str, local: str | None
) -> None:
    assert names.is_cloud(raw)
    assert key_of(raw) == (None if local is None else key_of(local))


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "cloud",
        "x-cloud",
        "x:cloudy",
        "x:local",
        "x:y-cloud/z",
        "x:cloud:local",
        "x:cloud:cloud",
        "cloud:latest",
    ],
)
def test_other_names_do_not_ask_for_the_cloud(raw: str) -> None:
    assert not names.is_cloud(raw)


PART = st.text(alphabet=string.ascii_letters + string.digits + "_", min_size=1, max_size=20)


@given(host=PART, namespace=PART, model=PART, tag=PART)
def test_a_key_and_a_short_form_name_the_same_model(
    host: str, namespace: str, model: str, tag: str
) -> None:
    name = names.Name(host=host, namespace=namespace, model=model, tag=f"t{tag}t")
    assert key_of(name.key) == name.key
    assert key_of(name.short) == name.key


@given(st.text(alphabet="aZ0_.-:/ @é", max_size=30))
def test_case_and_surrounding_space_never_matter(raw: str) -> None:
    assert key_of(f" {raw.upper()} ") == key_of(raw)
    assert names.is_cloud(f" {raw.upper()} ") == names.is_cloud(raw)
