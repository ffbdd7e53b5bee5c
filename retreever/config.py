"""The one configuration tree: data, encoder, tree, loss, depth, train, index.

Every setting of a run is a field here, typed, bounded and frozen, with its only default. A configuration comes from a
YAML file, from dotted overrides (`tree.depth=8`) or from Python. All faults are reported at once; the message for an
unknown key names the nearest right one. This module knows neither where files are kept (`workspace.py`) nor how many
workers run.

It is long because it is the one place to look a setting up: two thirds of it are the table of fields, the rest is
what reads and checks that table.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retreever.errors import ConfigError
from retreever.system.files import digest_json

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
MIN_GUARD_RATIO = 0.97
"""Share of the frozen encoder's NDCG@10 that a promotion asks of a tree on every guard set, unless told another."""


class ConfigSection(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True)


class DataConfig(ConfigSection):
    """The data set, in BEIR layout."""

    name: str = Field(
        "docstrings",
        min_length=1,
        description="name under workspace/data, or a folder in BEIR layout; A+B reads several as one",
    )
    on_bad: Literal["refuse", "skip"] = Field("refuse", description="at a bad line: stop, or skip and count")
    max_pairs: Count | None = Field(None, description="train on at most this many pairs, drawn by seed")


class EncoderConfig(ConfigSection):
    """The frozen text encoder and how texts are cut."""

    name: str = Field(
        "minilm", min_length=1, description="'minilm' (all-MiniLM-L6-v2), a Hugging Face id, or a local folder"
    )
    revision: str | None = Field(None, description="git revision of a Hugging Face id")
    pooling: Literal["mean", "cls"] = Field("mean", description="how token states become one vector")
    normalize: bool = Field(True, description="scale each text so that its pooled vector has length one")
    words: float = Field(
        1.0,
        ge=0,
        le=10,
        description="weight of lexical features, concatenated to the last layer: the encoder's word embeddings of the "
        "whole text, whatever the lengths below, rarer words weigh more; doubles the width; 0: the last layer alone",
    )
    query_prefix: str = Field("", description="put before every query, e.g. BGE's instruction")
    passage_prefix: str = Field("", description="put before every passage")
    query_max_length: int = Field(64, ge=3, description="tokens kept of a query")
    passage_max_length: int = Field(128, ge=3, description="tokens kept of a passage")
    query_truncation: Literal["left", "right"] = Field(
        "right", description="side to cut; 'left' keeps the end of a conversation"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, and on a CPU that multiplies it faster; else float32"
    )
    runtime: Literal["auto", "torch", "openvino", "onnx"] = Field(
        "auto",
        description="what computes the encoder on a CPU; auto: the fastest on this machine by a short measurement that "
        "is kept; a GPU is always torch's",
    )
    batch_tokens: int = Field(4_096, ge=512, description="padded tokens in one forward pass")
    tokens: bool | None = Field(
        None, description="also keep the states of all tokens; null: where the split function attends to them"
    )
    live: bool = Field(
        False, description="keep no token states, but encode them anew for every batch (slow without a GPU)"
    )


class TreeConfig(ConfigSection):
    """The routing tree. Sections 3.1 and 3.2 of the paper; `leaf_softmax` and `consistent` are ours."""

    depth: int = Field(10, ge=1, le=16, description="levels below the root; 2**depth leaves")
    split: Literal["linear", "mlp", "cross_attention"] = Field("linear", description="split function")
    propagation: Literal["product", "learned", "learned_per_node", "consistent", "leaf_softmax"] = Field(
        "product", description="how split scores become node probabilities"
    )
    init_std: Positive = Field(0.4, description="standard deviation of the split scores on the first batch")
    init_growth: float = Field(
        0.5, ge=0, le=2, description="product: init_std grows by 2**init_growth from a level to the next"
    )
    level_norm: bool = Field(True, description="product: scale the scores of a level to one length for all texts")
    norm_levels: Count = Field(2, description="product: so many levels below the fourth are scaled together")
    start: Literal["random", "frame", "clusters"] | None = Field(
        None,
        description="rows of the splits before training; frame: the tree ranks as its encoder; clusters: the same, and "
        "its first levels are hierarchical clusters of the passages; null: frame, and clusters where train.steps is 0",
    )
    turn: bool = Field(
        True,
        description="product, linear and mlp: turn the rows of the upper levels so that a query and its passage go the "
        "same way; nodes become topics, the ranking stays",
    )
    start_levels: int = Field(6, ge=1, le=9, description="clusters: levels of splits that are clusters")
    anchor: Annotated[float, Field(ge=0)] | tuple[Annotated[float, Field(ge=0)], ...] = Field(
        2.0,
        description="decay of split weights towards their start, as a share times the learning rate; one number, or "
        "one a level from the root, the last serves deeper levels; where it is 0, weights decay to zero by "
        "train.weight_decay",
    )
    hidden: Count = Field(128, description="mlp: hidden width")
    mlp_dropout: Fraction = Field(0.2, description="mlp: dropout before the activation")
    heads: Count = Field(4, description="cross_attention: heads")
    embeddings: Count = Field(1, description="cross_attention: embeddings per node (n_e)")
    d_emb: Count = Field(128, description="cross_attention: width of node embeddings")
    d_k: Count = Field(128, description="cross_attention: width of queries and keys over all heads")
    values: Literal["full", "projected"] = Field(
        "full",
        description="cross_attention: values at the encoder's width, or projected to d_k as in the paper",
    )
    embedding_std: Positive = Field(0.02, description="cross_attention: std of node embeddings at the start (paper: 1)")
    attention_dropout: Fraction = Field(0.1, description="cross_attention: dropout on attention weights")
    propagation_dropout: Fraction = Field(0.1, description="learned propagations: dropout inside the node MLPs")

    @property
    def anchor_strengths(self) -> tuple[float, ...] | None:
        """`anchor` as strengths by level; None where weights decay to zero."""
        strengths = self.anchor if isinstance(self.anchor, tuple) else (self.anchor,)
        return strengths if any(strengths) else None

    def architecture(self) -> dict[str, Any]:
        """Arguments of the module: every setting but those of its start."""
        return self.model_dump(exclude={"start", "start_levels", "anchor", "turn"})

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.split == "cross_attention" and self.d_k % self.heads:
            raise ValueError(f"d_k ({self.d_k}) must be a multiple of heads ({self.heads})")
        return self


class LossConfig(ConfigSection):
    """Symmetric InfoNCE over a similarity of level vectors (section 3.3 of the paper)."""

    similarity: Literal["ntvd", "bhattacharyya"] = Field(
        "bhattacharyya", description="ntvd: the paper's; bhattacharyya: ours, one matrix product"
    )
    scale: Positive = Field(800.0, description="inverse temperature at the start; it is learned")
    scale_min: Positive = Field(1e-4, description="lower clamp of the scale")
    scale_max: Positive = Field(10_000.0, description="upper clamp of the scale (the release: 30)")
    scale_per_level: bool = Field(True, description="learn a scale for each level; false: one for all, as in the paper")
    negatives: Count | None = Field(None, description="in-batch negatives per query, drawn at random; null: all")

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if not self.scale_min <= self.scale <= self.scale_max:
            raise ValueError(
                f"scale ({self.scale}) must lie within [scale_min, scale_max] = [{self.scale_min}, {self.scale_max}]"
            )
        return self


class DepthConfig(ConfigSection):
    """The level, or levels, that a training step optimises (section 3.4 of the paper)."""

    scheduler: Literal[
        "constant", "random_uniform", "random_linear", "random_square",
        "warmup_linear", "warmup_exponential", "linear_weighted", "all_levels",
    ] = Field("all_levels", description="random_square: the paper's stochastic depth; all_levels: ours")  # fmt: skip
    levels: tuple[Count, ...] | None = Field(
        None, min_length=1, description="all_levels: only these; null: 4, 6, ... and the last"
    )
    decay: float = Field(1.0, ge=0, le=4, description="all_levels: the loss of level d weighs 1 / d**decay")
    distill: Fraction = Field(
        0.8,
        description="all_levels: share of soft targets, from the next level, in the first level's target; it falls "
        "as 1 / d",
    )
    warmup_fraction: Fraction = Field(0.1, description="warmup_*: share of steps until the full depth is reached")


class TrainConfig(ConfigSection):
    """Optimisation, validation and stopping."""

    goal: Literal["tree", "hybrid"] = Field(
        "tree",
        alias="for",
        description="what will be served, and is therefore judged in validations, sweeps and promotions: the tree "
        "alone, or the tree with BM25 and the frozen encoder",
    )
    seed: int = Field(0, ge=0, lt=2**31)
    steps: int = Field(600, ge=0, description="optimiser steps; 0: the tree stays as it starts, no pair is needed")
    batch_size: int = Field(1024, ge=2, description="query-passage pairs in a step, over all workers")
    accumulate: Count = Field(1, description="batches whose mean gradient makes one step; each has its own negatives")
    micro_batch: Count | None = Field(
        None,
        description="pairs whose activations are held at once, best a multiple of 32 on a CPU; the gradient is still "
        "that of the whole batch; null: all",
    )
    lr: Positive = Field(0.01, description="peak learning rate of AdamW")
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Positive = 1e-6
    weight_decay: float = Field(
        1.6, ge=0, description="share of every weight, times the learning rate, subtracted at each step"
    )
    warmup_fraction: Fraction = Field(
        0.05, description="share of steps with a growing learning rate; linear decay follows"
    )
    clip_norm: Positive = Field(1.0, description="largest norm of the gradient")
    input_dropout: Fraction = Field(0.1, description="dropout on encodings")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on a GPU, and for cross_attention on a CPU that multiplies it faster"
    )
    eval_every: Count = Field(
        100, description="steps between validations; each validation is an epoch of the sweep's scheduler"
    )
    eval_queries: Count = Field(1000, description="dev queries at a validation, at most, drawn by seed")
    eval_passages: Count | None = Field(
        None,
        description="passages ranked at a validation: the relevant ones, and others drawn by seed; null: all",
    )
    patience: Count | None = Field(None, description="stop after this many validations without a better dev NDCG@10")
    guard: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="guard sets, as in data.name: not trained on, but judged at each validation against the frozen "
        "encoder, on their test split, else on dev",
    )


class IndexConfig(ConfigSection):
    """Storage of a corpus for search."""

    dtype: Literal["float32", "float16"] = Field(
        "float16", description="type of the stored probabilities or their roots; search is exact over the stored ones"
    )
    compact: bool = Field(
        False, description="store codes only, at most 400 bytes a passage: search by estimate, at the last level only"
    )
    k: int = Field(10, ge=1, le=1000, description="passages that a search returns by default")
    lexical: bool = Field(True, description="index words too, for hybrid search; not in a compact index")
    k1: Positive = Field(1.5, description="lexical: how slowly a word's worth grows with its count in a passage")
    b: float = Field(0.75, ge=0, le=1, description="lexical: how much long passages are held back")
    stopwords: str | None = Field(
        "en", description="lexical: language whose stop words are left out, as bm25s names it; null: none are"
    )
    stemmer: str | None = Field(
        None, description="lexical: Snowball's algorithm that takes endings off, e.g. english; null: words stay whole"
    )
    encodings: bool | None = Field(
        None,
        description="keep the frozen encodings too, so that hybrid search adds their cosine; null: where train.for is "
        "hybrid",
    )
    explain_nodes: float = Field(
        4.0,
        ge=1,
        description="effective nodes of the average passage at level 6, or at the last of a shallower tree, by the "
        "sharp reading that names and explains nodes; ranking does not use it",
    )


VALUES_BEFORE: Mapping[str, Mapping[str, Any]] = {
    "encoder": {"runtime": "auto"},  # it computes the same vectors, and stored bundles gain its speed
    "tree": {"start": "random", "start_levels": 6, "anchor": 0.0, "turn": False, "norm_levels": 1},
    "train": {"guard": [], "for": "tree"},
    "index": {
        "explain_nodes": 4.0,
        "lexical": True,  # an older model that is indexed anew gets words, too
        "k1": 1.5,
        "b": 0.75,
        "stopwords": "en",
        "stemmer": None,
        "encodings": None,
    },
}
"""By section: how trees were made before these settings existed."""


class Config(ConfigSection):
    """Everything that determines a trained tree."""

    data: DataConfig = DataConfig()
    encoder: EncoderConfig = EncoderConfig()
    tree: TreeConfig = TreeConfig()
    loss: LossConfig = LossConfig()
    depth: DepthConfig = DepthConfig()
    train: TrainConfig = TrainConfig()
    index: IndexConfig = IndexConfig()

    @model_validator(mode="after")
    def _check_sections(self) -> Self:
        faults = []
        beyond = [level for level in self.depth.levels or () if level > self.tree.depth]
        if beyond:
            faults.append(f"depth.levels: {beyond} lie below the last level, tree.depth = {self.tree.depth}")
        if self.tree.split == "cross_attention" and self.encoder.tokens is False:
            faults.append(
                "encoder.tokens: must be true or null for tree.split = cross_attention, which attends to tokens"
            )
        if self.loss.negatives is not None and self.loss.negatives >= self.train.batch_size:
            faults.append(
                f"loss.negatives: {self.loss.negatives} in-batch negatives need a train.batch_size above that, "
                f"it is {self.train.batch_size}"
            )
        if self.train.goal == "hybrid" and (self.index.compact or not self.index.lexical):
            faults.append("train.for: hybrid needs index.lexical = true and index.compact = false")
        if self.index.encodings and (self.index.compact or not self.index.lexical):
            faults.append("index.encodings: true needs index.lexical = true and index.compact = false")
        guarded = {part for name in self.train.guard for part in (name, *name.split("+"))}
        trained = sorted(guarded & {self.data.name, *self.data.name.split("+")})
        if trained:
            faults.append(f"train.guard: must be a set that is not trained on, data.name has {', '.join(trained)}")
        if len(self.guards) < len(self.train.guard):
            faults.append(f"train.guard: each set needs a name of its own, got {list(self.train.guard)}")
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def guards(self) -> dict[str, "Config"]:
        """Configurations whose data is a guard set, by the name in its figures: a folder's last part."""
        train = self.train.model_copy(update={"guard": ()})
        return {
            re.sub(r"[^\w.-]", "-", Path(place).name): self.model_copy(
                update={"data": self.data.model_copy(update={"name": place}), "train": train}
            )
            for place in self.train.guard
        }

    @property
    def encoding(self) -> EncoderConfig:
        """The section `encoder` with `tokens` decided, as the store of encodings needs it."""
        attends = self.tree.split == "cross_attention"
        tokens = attends if self.encoder.tokens is None else self.encoder.tokens
        return self.encoder.model_copy(update={"tokens": tokens})

    @property
    def keeps_encodings(self) -> bool:
        """Whether an index keeps the frozen encodings beside the words."""
        return self.train.goal == "hybrid" if self.index.encodings is None else self.index.encodings

    @property
    def digest(self) -> str:
        """Short digest of every setting: equal configurations, equal digests.

        A setting that has the value of the time before it existed is left out, so that older runs keep their digests.
        """
        values = self.model_dump(mode="json")
        for section, settings in VALUES_BEFORE.items():
            for name, before in settings.items():
                if values[section][name] == before:
                    del values[section][name]
        return digest_json(values)

    def flat(self) -> dict[str, Any]:
        """Every setting by its dotted name, for MLflow params and tables.

        >>> Config().flat()["tree.depth"]
        10
        """
        return {f"{s}.{k}": v for s, group in self.model_dump(mode="json").items() for k, v in group.items()}

    def with_overrides(self, overrides: Mapping[str, Any]) -> "Config":
        """A new configuration with dotted names replaced.

        >>> Config().with_overrides({"tree.depth": 8}).tree.depth
        8
        """
        return build_config(self.model_dump(mode="json"), overrides)


class _Yaml12Loader(yaml.SafeLoader):
    """YAML 1.2 floats: `5e-4` is a number, not a string."""


_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\.inf|\.nan)$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, source: str = "configuration") -> Any:
    """Parse YAML; `5e-4` is a number.

    Raises:
        ConfigError: the text is not YAML; the message has `source` and the line.

    >>> parse_yaml("lr: 5e-4\\nsteps: 300")
    {'lr': 0.0005, 'steps': 300}
    """
    try:
        return yaml.load(text, Loader=_Yaml12Loader)
    except yaml.YAMLError as error:
        raise ConfigError([f"{source}: not valid YAML: {' '.join(str(error).split())}"]) from None


def parse_override(text: str) -> tuple[str, Any]:
    """Split `tree.depth=8` into its dotted name and its YAML value.

    Raises:
        ConfigError: not NAME=VALUE, or the value is not YAML.

    >>> parse_override("depth.levels=[4, 8]")
    ('depth.levels', [4, 8])
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError([f"--set {text}: must be NAME=VALUE, e.g. tree.depth=8"])
    return name.strip(), parse_yaml(value, f"--set {name}")


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration from YAML (defaults where `path` is None), then apply `NAME=VALUE` overrides.

    Raises:
        ConfigError: with every fault found.
    """
    values: Any = {}
    if path is not None:
        try:
            values = parse_yaml(Path(path).read_text(encoding="utf-8"), str(path)) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"{path}: cannot be read: {error}"]) from None
    faults: list[str] = []
    parsed: dict[str, Any] = {}
    for text in overrides:
        try:
            name, value = parse_override(text)
            parsed[name] = value
        except ConfigError as error:
            faults += error.faults
    try:
        config = build_config(values, parsed)
    except ConfigError as error:
        raise ConfigError(faults + error.faults) from None
    if faults:
        raise ConfigError(faults)
    return config


def build_config(values: Any, overrides: Mapping[str, Any] | None = None) -> Config:
    """Validate nested `values` with dotted `overrides` on top.

    Raises:
        ConfigError: with every fault found, each as `name: rule, got value`.
    """
    if not isinstance(values, Mapping):
        raise ConfigError([f"configuration: must be a mapping of sections, got {type(values).__name__}"])
    faults: list[str] = []
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for name, value in (overrides or {}).items():
        section, dot, key = name.partition(".")
        if not dot or section not in Config.model_fields:
            faults.append(describe_unknown_setting(name))
            continue
        group = merged.setdefault(section, {})
        if isinstance(group, dict):
            group[key] = value
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(faults + [_format_fault(fault) for fault in error.errors()]) from None
    if faults:
        raise ConfigError(faults)
    return config


def list_setting_names() -> list[str]:
    """Dotted names of all settings."""
    return [
        f"{section}.{field.alias or name}"
        for section in Config.model_fields
        for name, field in _section_class(section).model_fields.items()
    ]


def _section_class(name: str) -> type[ConfigSection]:
    annotation = Config.model_fields[name].annotation
    assert isinstance(annotation, type) and issubclass(annotation, ConfigSection)
    return annotation


def describe_unknown_setting(name: str) -> str:
    """The message for a dotted name that does not exist, with the nearest one that does.

    >>> describe_unknown_setting("tree.deph")
    'tree.deph: no such setting; did you mean tree.depth?'
    """
    known = [*list_setting_names(), *Config.model_fields]
    last = {n.rpartition(".")[2]: n for n in known}
    near = difflib.get_close_matches(name, known, 1, 0.6) or [
        last[n] for n in difflib.get_close_matches(name.rpartition(".")[2], list(last), 1, 0.6)
    ]
    return f"{name}: no such setting" + (f"; did you mean {near[0]}?" if near else "")


def _format_fault(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return describe_unknown_setting(name)
    rule = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":  # the validators here name the fields themselves
        return f"{name}: {rule}" if name else rule
    return f"{name}: {rule[0].lower()}{rule[1:]}, got {fault['input']!r}"
