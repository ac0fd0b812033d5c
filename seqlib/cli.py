# SPDX-License-Identifier: Apache-2.0
"""The command `seqlib`: train a recipe, continue a prompt, score a text, prepare data."""

import argparse
import runpy
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console


def main(words: Sequence[str] | None = None) -> None:
    """Run one of the commands `train`, `generate`, `evaluate` and `data`."""
    parser = argparse.ArgumentParser(prog="seqlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="run the recipe that a configuration belongs to")
    train.add_argument("config", type=Path, help="recipes/NAME/configs/PRESET.yaml")
    train.set_defaults(run=_train)

    generate = commands.add_parser("generate", help="continue a prompt")
    generate.add_argument("folder", help="a model's folder, or its name on the Hub")
    generate.add_argument("--prompt", default="", help="a new document by default")
    generate.add_argument("--max_new_tokens", type=int, default=200)
    generate.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    generate.add_argument("--seed", type=int, default=0)
    generate.set_defaults(run=_generate)

    evaluate = commands.add_parser("evaluate", help="held-out bits per byte")
    evaluate.add_argument("folder", help="a model's folder, or its name on the Hub")
    evaluate.add_argument("--corpus", help="a built-in corpus, scored on its validation split")
    evaluate.add_argument("--files", nargs="+", help="paths, globs or folders of text to score")
    evaluate.add_argument("--window", type=int, help="tokens per call; the training length")
    evaluate.set_defaults(run=_evaluate)

    data = commands.add_parser("data", help="prepare mixtures of recorded speech")
    names = ("prompts-2mix", "prompts-2mix-mf")
    data.add_argument("name", choices=names, help="mf: men are mixed with women only")
    data.add_argument("--root", help="where the Debian packages were unpacked; / by default")
    data.add_argument("--fetch", action="store_true", help="download packages that are missing")
    data.add_argument("--oracle", type=int, metavar="N", help="score ideal masks on N mixtures")
    data.set_defaults(run=_data)

    separate = commands.add_parser("separate", help="one file per speaker of a recording")
    separate.add_argument("audio", type=Path, help="a recording with one channel")
    separate.add_argument("folder", help="a model's folder, or its name on the Hub")
    separate.add_argument("--out", type=Path, default=Path(), help="where NAME_s1.wav, ... go")
    for name, text in (("chunk", "length of a window"), ("overlap", "shared by two windows")):
        separate.add_argument(f"--{name}_seconds", type=float, default=argparse.SUPPRESS, help=text)
    separate.add_argument("--resample", action="store_true", help="accept other sampling rates")
    separate.set_defaults(run=_separate)

    args, rest = parser.parse_known_args(words)
    if rest and args.command != "train":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        args.run(args, rest)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _train(args: argparse.Namespace, settings: list[str]) -> None:
    recipe = args.config.resolve().parent.parent / "train.py"
    if not args.config.is_file() or not recipe.is_file():
        raise ValueError(
            f"config must be a file in the configs folder of a recipe, got {args.config}"
        )
    sys.argv = [str(recipe), str(args.config), *settings]
    runpy.run_path(str(recipe), run_name="__main__")


def _generate(args: argparse.Namespace, _: list[str]) -> None:
    from seqlib.training.report import continue_text

    model, tokenizer = _load(args.folder)
    text = continue_text(
        model,
        tokenizer,
        args.prompt,
        args.max_new_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )
    Console().print(text, markup=False, highlight=False)


def _evaluate(args: argparse.Namespace, _: list[str]) -> None:
    from seqlib.data import load_corpus
    from seqlib.data.text_files import find_files, read_documents
    from seqlib.evaluation import bits_per_byte

    if (args.corpus is None) == (args.files is None):
        raise ValueError("exactly one of --corpus and --files must be given")
    if args.corpus is not None:
        documents = list(load_corpus(args.corpus)["validation"])
    else:
        paths = find_files("--files", args.files)[0]
        documents = [text for path in paths for text in read_documents(path, "text")]
    model, tokenizer = _load(args.folder)
    window = model.config.max_position_embeddings if args.window is None else args.window
    score = bits_per_byte(model, tokenizer, documents, window=window)
    Console().print(
        f"{score.bits_per_byte:.4f} bits per byte on {score.num_bytes} bytes ({score.protocol})",
        highlight=False,
    )


def _data(args: argparse.Namespace, _: list[str]) -> None:
    from seqlib.data.speech import load_speech
    from seqlib.evaluation.oracle_masks import oracle_scores

    try:
        data = load_speech(args.name, root=args.root, fetch=args.fetch)
    except RuntimeError as error:  # a download
        sys.exit(f"error: {error}")
    show = partial(Console().print, highlight=False)
    for name in data.sets:
        counts = data.manifest["sets"][name]
        show(f"{name}: {counts['mixtures']} mixtures, {counts['seconds'] / 60:.1f} minutes")
    show(f"sha256 {data.manifest['sha256']}")
    for name in data.sets if args.oracle else ():
        examples = data.fixed(name)
        scores = oracle_scores([examples[i] for i in range(min(args.oracle, len(examples)))])
        show(f"{name}: " + ", ".join(f"{k} {v} dB" for k, v in scores.items()))


def _separate(args: argparse.Namespace, _: list[str]) -> None:
    from seqlib.audio import audio_info, write_audio
    from seqlib.models import separate

    given = {name: value for name, value in vars(args).items() if name.endswith("_seconds")}
    rate = audio_info(args.audio).sampling_rate
    sources = separate(args.audio, args.folder, resample=args.resample, **given)
    sources /= max(abs(sources).max(), 1)  # one factor for all keeps their levels apart
    args.out.mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(sources, 1):
        path = args.out / f"{args.audio.stem}_s{number}.wav"
        write_audio(path, source, rate)
        Console().print(str(path), markup=False, highlight=False)


def _load(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
