# SPDX-License-Identifier: Apache-2.0
"""Built-in corpora and data sets: choosing one, cleaning, splitting, and real text once."""

import gzip
import json
import sys

import pytest

from seqlib.data import cleaning, load_corpus
from seqlib.data.splits import hash_split


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of name, train_files and dataset_name must be given, got none"),
        ({"name": "pystdlib", "train_files": ["a"]}, "got name='pystdlib', train_files="),
        ({"name": "pystdlb"}, "got 'pystdlb'; did you mean 'pystdlib'"),
        ({"name": "zzz"}, "name must be one of pystdlib, .*, got 'zzz'$"),
        ({"name": "pystdlib", "validation_files": ["a"]}, "validation_files goes with train_files"),
        ({"name": "pystdlib", "path": "/x"}, "path goes with the name debdocs"),
    ],
)
def test_one_source_and_a_known_name(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(cache_dir=tmp_path, **arguments)


def test_splits_follow_the_published_hash():
    # from sha256("pystdlib-v1:" + key): 0.564, 0.0145, 0.0680
    expected = {"abc.py": "train", "keyword.py": "validation", "argparse.py": "test"}
    assert {key: hash_split("pystdlib-v1", key) for key in expected} == expected


def test_standard_library(tmp_path, monkeypatch):
    root = tmp_path / "lib"
    for i in range(120):
        (root / "pkg").mkdir(parents=True, exist_ok=True)
        (root / "pkg" / f"m{i}.py").write_text(f"x = {i}\n")
    for folder in ("test", "site-packages", "pkg/tests", "config-3"):
        (root / folder).mkdir(parents=True)
        (root / folder / "no.py").write_text("left out = 1\n")
    (root / "latin.py").write_bytes(b"# \xe9\n")
    (root / "empty.py").write_text("")
    monkeypatch.setattr("seqlib.data.pystdlib.sysconfig.get_path", lambda _: str(root))
    small = load_corpus("pystdlib", cache_dir=tmp_path)
    full = load_corpus("pystdlib-full", cache_dir=tmp_path)
    assert sum(len(s) for s in small.splits.values()) == 120
    assert sum(len(s) for s in full.splits.values()) == 123
    assert small.manifest["versions"] == {"python": sys.version}
    assert list(small.manifest["skipped"]) == ["latin.py"]
    assert small.manifest["licence"] == "PSF-2.0"


def test_the_real_standard_library_is_millions_of_bytes_of_code(tmp_path):
    corpus = load_corpus("pystdlib", cache_dir=tmp_path)
    sizes = {split: documents.num_bytes for split, documents in corpus.splits.items()}
    assert sizes["train"] > 5e6
    assert 0.01 < sizes["validation"] / sum(sizes.values()) < 0.15
    assert any("def " in text for text in corpus["validation"])
    assert load_corpus("pystdlib", cache_dir=tmp_path).sha256 == corpus.sha256


def test_a_local_folder_loads_through_datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "set"
    folder.mkdir()
    lines = [json.dumps({"text": f"row {i}"}) for i in range(200)]
    (folder / "train.jsonl").write_text("\n".join(lines))
    corpus = load_corpus(dataset_name=str(folder), cache_dir=tmp_path / "cache")
    assert sorted(t for s in corpus.splits.values() for t in s) == sorted(
        f"row {i}" for i in range(200)
    )
    (folder / "validation.jsonl").write_text(json.dumps({"text": "held out"}))
    corpus = load_corpus(dataset_name=str(folder), cache_dir=tmp_path / "cache")
    assert list(corpus["validation"]) == ["held out"]
    with pytest.raises(ValueError, match="text_column 'body' is not in the train split"):
        load_corpus(dataset_name=str(folder), text_column="body", cache_dir=tmp_path / "cache")


def test_rows_of_a_data_set_split_by_their_text(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    rows = [f"row {i % 200}" for i in range(400)]
    splits = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        (tmp_path / name).mkdir()
        lines = "\n".join(json.dumps({"text": text}) for text in order)
        (tmp_path / name / "train.jsonl").write_text(lines)
        corpus = load_corpus(dataset_name=str(tmp_path / name), cache_dir=tmp_path / "cache")
        splits.append({split: set(corpus[split]) for split in corpus.splits})
    assert splits[0] == splits[1]
    assert sum(map(len, splits[0].values())) == 200, "copies of a text stay together"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be loaded: "),
        (b"", "cannot be loaded: StopIteration"),
        (b'{"text": "a"}\n{"text": ', "cannot be loaded: ArrowInvalid: JSON parse error"),
        (b"\0\1\2\xff", "cannot be loaded: ArrowInvalid: JSON parse error"),
        (b'{"text": 1}\n', "'text' of .* must hold text, its train split holds .* type int64"),
        (b'{"text": ["a"]}\n', "'text' of .* must hold text, its train split holds .* nested"),
        (b'{"text": null}\n', "'text' of .* must hold text, its train split holds .* type null"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_an_error(tmp_path, monkeypatch, content, message):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "set"
    folder.mkdir()
    if content is not None:
        (folder / "train.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_corpus(dataset_name=str(folder), cache_dir=tmp_path / "cache")


def test_without_datasets_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ImportError, match=r"needs the package datasets: pip install 'seqlib\[data\]'"
    ):
        load_corpus(dataset_name="x/y", cache_dir=tmp_path)


def debian_root(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".dz" else data)
    return root


PROSE = "A sentence that says enough to be kept in the corpus. " * 5


def test_debian_documents(tmp_path):
    pages = {
        f"usr/share/doc/postgresql-doc-15/html/p{i}.html": f"<body><p>{PROSE}{i}</p></body>"
        for i in range(60)
    }
    root = debian_root(
        tmp_path / "root",
        {
            **pages,
            "usr/share/doc/postgresql-doc-15/html/index.html": "<p>too short</p>",
            "usr/share/doc/postgresql-doc-15/html/twin.html": pages[next(iter(pages))],
            "usr/share/perl/5.36.0/pod/perlfunc.pod": f"=head1 NAME\n\n{PROSE}\n\n=cut\n\ncode;",
            "usr/share/dictd/gcide.dict.dz": f"Word \\Word\\, n.\n   {PROSE}\n   [1913 Webster]\n",
        },
    )
    corpus = load_corpus("debdocs-s", path=root, cache_dir=tmp_path)
    texts = [t for s in corpus.splits.values() for t in s]
    assert len(texts) == 60 + 2, "short pages and exact duplicates are dropped"
    assert "NAME\n\n" + PROSE.rstrip() + "\n" in texts
    assert any(t.startswith("Word \\Word\\, n. A sentence") for t in texts)
    packages = {"perl-doc", "postgresql-doc", "dict-gcide"}
    for entry in ("versions", "licence", "attribution"):
        assert set(corpus.manifest[entry]) == packages


def test_missing_packages_are_named(tmp_path):
    with pytest.raises(ValueError, match="debdocs-s needs the Debian packages perl-doc, postgr"):
        load_corpus("debdocs-s", path=tmp_path / "nothing", cache_dir=tmp_path)


def test_packages_are_fetched_only_when_allowed(tmp_path, monkeypatch):
    fetched = []

    def fetch(package, folder):
        fetched.append(package)
        files = {
            "perl-doc": ("usr/share/perl/5.40/pod/perlfunc.pod", f"=pod\n\n{PROSE}\n"),
            "postgresql-doc-17": (
                "usr/share/doc/postgresql-doc-17/html/index.html",
                f"<p>{PROSE}",
            ),
            "dict-gcide": (
                "usr/share/dictd/gcide.dict.dz",
                "".join(f"W{i} \\W\\\n   {PROSE}\n" for i in range(4000)),
            ),
        }
        debian_root(folder, dict([files[package]]))
        return "1.0"

    monkeypatch.setattr("seqlib.data.debdocs.fetch_package", fetch)
    real = {"postgresql-doc": "postgresql-doc-17"}
    monkeypatch.setattr("seqlib.data.debdocs.real_package", lambda p: real.get(p, p))
    corpus = load_corpus("debdocs-s", path=tmp_path / "no", fetch=True, cache_dir=tmp_path)
    assert fetched == ["perl-doc", "postgresql-doc-17", "dict-gcide"]
    assert corpus.manifest["versions"] == dict.fromkeys(fetched, "1.0")
    load_corpus("debdocs-s", path=tmp_path / "no", cache_dir=tmp_path)  # now from the cache
    assert len(fetched) == 3


def test_rst():
    text = (
        ".. _label:\n\nTitle\n=====\n\nSee :ref:`the page <page>` and :doc:`other`, "
        "`site <http://x>`_ or ``code`` and **bold**.\n\n.. note:: kept\n\n.. code-block:: c\n\n"
        "   x = 1;\n\n+---+---+\n| a | b |\n+===+===+\n"
    )
    assert cleaning.normalise(cleaning.rst(text)) == (
        "Title\n\nSee the page and other, site or code and bold.\n\n.. note:: kept\n\n"
        "   x = 1;\n\n| a | b |\n"
    )


def test_pod():
    text = (
        "my $code = 1;\n\n=head1 NAME\n\nB<bold I<nested>>, C<< a->b >>, L<text|perlre>, "
        "E<lt>tagE<gt>, E<eacute>, X<index>end\n\n=cut\n\nmore code\n\n=over 4\n\n=item *\n\nlast\n"
    )
    assert cleaning.normalise(cleaning.pod(text)) == (
        "NAME\n\nbold nested, a->b, text, <tag>, é, end\n\n4\n\n*\n\nlast\n"
    )


def test_html():
    page = (
        "<html><head><title>no</title></head><body><nav>no</nav><h1>Yes</h1><p>a &amp;lt; b"
        "&nbsp;c<br>d<script>no()</script></p><pre>x\n  y</pre></body></html>"
    )
    assert cleaning.normalise(cleaning.html_text(page)) == "Yes\n\na &lt; b\xa0c\nd\n\nx\n  y\n"


def test_dictionary_entries_are_grouped_and_freed_of_tags():
    entries = [
        "Aa \\Aa\\, n. [L. aa.]\n   1. First {sense};\n      goes on. [Obs.]\n"
        "      [1913 Webster]\n\n   Syn: bb.\n        [WordNet 1.5 +PJC]"
    ] * 400
    documents = list(cleaning.gcide("\n".join(entries)))
    assert documents[0].split("\nAa ")[0] == (
        "Aa \\Aa\\, n. [L. aa.] 1. First sense; goes on. [Obs.]\n\n   Syn: bb."
    )
    assert [len(d) >= cleaning.DICTIONARY_CHARS for d in documents[:-1]] == [True]
    assert sum(d.count("Aa \\Aa") for d in documents) == 400


def test_normalise():
    assert cleaning.normalise("\n\na\tb  \n \n\n\nc\r\n") == "a       b\n\nc\n"
