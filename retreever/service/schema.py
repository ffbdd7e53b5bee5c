"""Requests and answers of the HTTP interface with their limits; the OpenAPI page is made of them."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, model_validator

from retreever.bundle.relevance import CalibrationReport
from retreever.bundle.tree_view import HitPath, NodeMass
from retreever.index.lexical.hybrid_query import LARGEST_HYBRID_WEIGHT

MAX_QUERY_CHARACTERS = 20_000  # characters
MAX_TEXT_CHARACTERS = 100_000  # characters of a document
MAX_K = 1000  # hits of a query
MAX_QUERIES = 64  # queries of a request
MAX_HITS = 10_000  # hits of a request: queries times k
MAX_DOCUMENTS = 64  # documents of a request
MAX_BODY_BYTES = 4 * 2**20  # bytes


def _check_plain(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold null characters")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must be valid unicode, it holds an unpaired surrogate")
    return text


def _check_readable(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return _check_plain(text)


PlainText = Annotated[str, AfterValidator(_check_plain)]
QueryText = Annotated[
    str,
    Field(min_length=1, max_length=MAX_QUERY_CHARACTERS, description="text to search for"),
    AfterValidator(_check_readable),
]
DocumentId = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_check_readable)]
FieldName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_check_plain)]
MetadataNumber = StrictBool | StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
MetadataValue = Annotated[str, Field(max_length=1000), AfterValidator(_check_plain)] | MetadataNumber | None
HybridWeightNumber = Annotated[
    float, Field(ge=0, le=LARGEST_HYBRID_WEIGHT, strict=True, allow_inf_nan=False, description="weight of BM25")
]
Level = Annotated[
    int, Field(ge=1, strict=True, description="level of the tree: vectors of 2**level dimensions; null: the finest")
]


class _RequestModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchRequest(_RequestModel):
    """One query or several, the number of passages for each, and the level of the tree to search."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "how do I read a csv file", "k": 3}]})

    query: QueryText | None = Field(None, description="text to search for; or give `queries`")
    queries: list[QueryText] | None = Field(
        None, min_length=1, max_length=MAX_QUERIES, description="several texts to search for"
    )
    k: Annotated[int, Field(ge=1, le=MAX_K, strict=True, description="passages to return for each query")] = 10
    level: Level | None = None
    max_bytes: Annotated[
        int | None,
        Field(ge=1, strict=True, description="choose the finest level whose vectors take at most this many bytes"),
    ] = None
    budget_ms: Annotated[
        float | None,
        Field(
            gt=0,
            strict=True,
            allow_inf_nan=False,
            description="choose the finest level whose recent searches took at most this many milliseconds",
        ),
    ] = None
    where: dict[FieldName, MetadataValue | Annotated[list[MetadataValue], Field(max_length=100)]] | None = Field(
        None,
        max_length=16,
        description="only passages whose metadata has these values; a list matches any of its values",
    )
    hybrid: Literal["auto", "off", "rrf"] | HybridWeightNumber | None = Field(
        None,
        description="rank by the sum of similarity, BM25 and, where the index keeps them, cosines of the encoder: auto "
        "with the bundle's weights, or with this weight of BM25; rrf: by reciprocal ranks; off: by similarity alone; "
        "null: auto where the model was trained for a hybrid, else off",
    )
    explain: StrictBool = Field(
        False,
        description="add each query's flow through the tree and each passage's path, by the sharp reading; and with "
        "`hybrid` the words that they share",
    )

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query or queries")
        if sum(value is not None for value in (self.level, self.max_bytes, self.budget_ms)) > 1:
            raise ValueError("give only one of level, max_bytes and budget_ms")
        if len(self.texts) * self.k > MAX_HITS:
            raise ValueError(f"queries times k must be at most {MAX_HITS}, got {len(self.texts)} times {self.k}")
        return self

    @property
    def texts(self) -> list[str]:
        """All queries."""
        return self.queries or ([] if self.query is None else [self.query])


class SearchHit(BaseModel):
    """A passage found; a higher score is a better match."""

    id: str
    score: float = Field(description="similarity to the query; with `hybrid` plus what words add")
    relevance: float | None = Field(
        None,
        ge=0,
        le=1,
        description="probability that a passage with this score at this rank is relevant, as the judgements of dev see "
        "it; null: with `where` or `hybrid`, at a level or for a model that has none",
    )
    title: str
    text: str
    metadata: dict[str, Any]
    why: HitPath | None = Field(
        None, description="with `explain`: where the passage goes in the tree, and where it meets the query"
    )

    words: dict[str, float] | None = Field(
        None, description="with `explain` and `hybrid`: words of the query that the passage has, and what each adds"
    )


class ModelInfo(BaseModel):
    """The model that answered."""

    version: str = Field(description="version of the registered model, or the folder it was loaded from")
    digest: str
    depth: int
    similarity: str
    encoder: str


class QueryResult(BaseModel):
    """The best passages for a query, best first."""

    query: str
    hits: list[SearchHit]
    flow: list[NodeMass] | None = Field(
        None, description="with `explain`: where the query goes: its probability at each node, by the sharp reading"
    )


class SearchResponse(QueryResult):
    """The result of a single query; `took_ms` leaves out waiting, encoding and HTTP."""

    level: int
    took_ms: float
    model: ModelInfo


class MultiSearchResponse(BaseModel):
    """The results of several queries, in their order."""

    results: list[QueryResult]
    level: int
    took_ms: float
    model: ModelInfo


class EmbedRequest(_RequestModel):
    """Texts to route through the tree."""

    texts: list[
        Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS), AfterValidator(_check_readable)]
    ] = Field(min_length=1, max_length=MAX_QUERIES)
    kind: Literal["query", "passage"] = "query"
    level: Level | None = None


class EmbedResponse(BaseModel):
    """Probabilities of the nodes of a level; each row sums to one."""

    level: int
    dimensions: int
    vectors: list[list[float]]
    model: ModelInfo


class Document(_RequestModel):
    """A passage of the corpus."""

    id: DocumentId
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS), AfterValidator(_check_readable)]
    title: Annotated[str, Field(max_length=MAX_QUERY_CHARACTERS), AfterValidator(_check_plain)] = ""
    metadata: dict[FieldName, MetadataValue | Annotated[list[MetadataValue], Field(max_length=100)]] = Field(
        {}, max_length=64
    )


class AddRequest(_RequestModel):
    """Passages to add."""

    documents: list[Document] = Field(min_length=1, max_length=MAX_DOCUMENTS)


class StoredDocument(BaseModel):
    """A passage as it is stored."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]


class DocumentPage(BaseModel):
    """Passages in the order in which they were added."""

    documents: list[StoredDocument]
    total: int
    next: int | None = Field(description="`after` of the next page; null: this is the last")


class ChangeResponse(BaseModel):
    """A change of the corpus: it is on disk, and the next search sees it."""

    changed: int = Field(description="passages added or deleted")
    total: int = Field(description="passages in the corpus now")
    model: ModelInfo


class VersionInfo(ModelInfo):
    """A version that serves, and where it comes from."""

    uri: str
    run_id: str | None = Field(description="MLflow run that trained it")
    run_url: str | None = Field(description="page of the run, if the tracking server has one")
    data: str | None = Field(description="data set it was trained on")
    metrics: dict[str, float] = Field(description="metrics measured when it was promoted")
    documents: int
    relevance: dict[int, CalibrationReport] | None = Field(
        None, description="by level: how well the relevance of hits is calibrated; null: hits have none"
    )
    share: float = Field(description="share of the searches that it answers")


class ModelState(VersionInfo):
    """The version that serves, the canary, and why either failed to load."""

    fault: str | None = Field(description="why the desired version does not serve; null: it does")
    canary: VersionInfo | None = Field(description="version that is tried on a share of the searches")
    canary_fault: str | None = Field(
        description="why the desired canary does not serve; null: it does, or there is none"
    )


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether searches are answered, and why the desired version does not serve."""

    ready: bool
    version: str | None
    fault: str | None


class Refusal(BaseModel):
    """Why a request was refused: each fault with its field."""

    detail: list[dict[str, Any]] | str
