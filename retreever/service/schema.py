"""What the service is asked and what it answers, as documented in its OpenAPI page, and the limits of both."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, model_validator

from retreever.bundle.tree_view import HitPath, NodeMass

LONGEST_QUERY = 20_000  # characters
LONGEST_TEXT = 100_000  # characters of a document
LARGEST_K = 1000
MOST_QUERIES = 64  # of a request
MOST_HITS = 10_000  # of a request: queries times k
MOST_DOCUMENTS = 64  # of a request
LARGEST_BODY = 4 * 2**20  # bytes


def _plain(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold null characters")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must be valid unicode, it holds an unpaired surrogate")
    return text


def _readable(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return _plain(text)


Plain = Annotated[str, AfterValidator(_plain)]
QueryText = Annotated[
    str, Field(min_length=1, max_length=LONGEST_QUERY, description="what to look for"), AfterValidator(_readable)
]
Name = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_readable)]
FieldName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_plain)]
Number = StrictBool | StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
Value = Annotated[str, Field(max_length=1000), AfterValidator(_plain)] | Number | None
Level = Annotated[int, Field(ge=1, strict=True, description="of the tree, 2**level dimensions; null: the finest")]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchRequest(_Asked):
    """One query or several, how many passages each wants, and at which level of the tree."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "how do I read a csv file", "k": 3}]})

    query: QueryText | None = Field(None, description="what to look for; or give `queries`")
    queries: list[QueryText] | None = Field(None, min_length=1, max_length=MOST_QUERIES, description="several at once")
    k: Annotated[int, Field(ge=1, le=LARGEST_K, strict=True, description="passages to return for a query")] = 10
    level: Level | None = None
    max_bytes: Annotated[
        int | None, Field(ge=1, strict=True, description="choose the finest level whose vectors take no more bytes")
    ] = None
    budget_ms: Annotated[
        float | None,
        Field(
            gt=0,
            strict=True,
            allow_inf_nan=False,
            description="choose the finest level that lately took no more time to search",
        ),
    ] = None
    where: dict[FieldName, Value | Annotated[list[Value], Field(max_length=100)]] | None = Field(
        None, max_length=16, description="only passages whose metadata has these values; of a list, one of them"
    )
    explain: StrictBool = Field(
        False, description="also say how each query goes through the tree and why passages are found"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query or queries")
        if sum(value is not None for value in (self.level, self.max_bytes, self.budget_ms)) > 1:
            raise ValueError("give only one of level, max_bytes and budget_ms")
        if len(self.texts) * self.k > MOST_HITS:
            raise ValueError(f"queries times k must be at most {MOST_HITS}, got {len(self.texts)} times {self.k}")
        return self

    @property
    def texts(self) -> list[str]:
        """All queries."""
        return self.queries or ([] if self.query is None else [self.query])


class PassageFound(BaseModel):
    """A passage; the higher its score, the more alike."""

    id: str
    score: float
    title: str
    text: str
    metadata: dict[str, Any]
    why: HitPath | None = Field(None, description="with `explain`: the nodes and leaves by which it was found")


class ModelInfo(BaseModel):
    """Which model answered."""

    version: str = Field(description="of the registered model, or the folder it was loaded from")
    digest: str
    depth: int
    similarity: str
    encoder: str


class Found(BaseModel):
    """The best passages for a query, best first."""

    query: str
    hits: list[PassageFound]
    flow: list[NodeMass] | None = Field(None, description="with `explain`: where the query goes")


class SearchResponse(Found):
    """What was found for the one query, and what it took without waiting and HTTP."""

    level: int
    took_ms: float
    model: ModelInfo


class ManyResponse(BaseModel):
    """What was found for each of several queries, in their order."""

    results: list[Found]
    level: int
    took_ms: float
    model: ModelInfo


class EmbedRequest(_Asked):
    """Texts to route through the tree."""

    texts: list[Annotated[str, Field(min_length=1, max_length=LONGEST_QUERY), AfterValidator(_readable)]] = Field(
        min_length=1, max_length=MOST_QUERIES
    )
    kind: Literal["query", "passage"] = "query"
    level: Level | None = None


class EmbedResponse(BaseModel):
    """Probabilities of the nodes of a level; each row sums to one."""

    level: int
    dimensions: int
    vectors: list[list[float]]
    model: ModelInfo


class Document(_Asked):
    """A passage of the corpus."""

    id: Name
    text: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT), AfterValidator(_readable)]
    title: Annotated[str, Field(max_length=LONGEST_QUERY), AfterValidator(_plain)] = ""
    metadata: dict[FieldName, Value | Annotated[list[Value], Field(max_length=100)]] = Field({}, max_length=64)


class AddRequest(_Asked):
    """Passages to add."""

    documents: list[Document] = Field(min_length=1, max_length=MOST_DOCUMENTS)


class DocumentHeld(BaseModel):
    """A passage as it is kept."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]


class DocumentPage(BaseModel):
    """Passages in the order in which they were added."""

    documents: list[DocumentHeld]
    total: int
    next: int | None = Field(description="give it as `after` for those that follow; null: there are none")


class Changed(BaseModel):
    """The corpus was changed: on disk, and seen by the next search."""

    changed: int = Field(description="passages added or deleted")
    total: int = Field(description="passages there are now")
    model: ModelInfo


class VersionInfo(ModelInfo):
    """A version that serves, and where it comes from."""

    uri: str
    run_id: str | None = Field(description="of the MLflow run that trained it")
    run_url: str | None = Field(description="the run's page, where the tracking server has one")
    data: str | None = Field(description="the data set it was trained on")
    metrics: dict[str, float] = Field(description="as measured when it was promoted")
    documents: int
    share: float = Field(description="of the searches that it answers")


class ModelState(VersionInfo):
    """The version that serves, what is tried beside it, and what did not load."""

    fault: str | None = Field(description="why what is asked for does not serve; null: it does")
    canary: VersionInfo | None = Field(description="the version that answers a share of the searches")
    canary_fault: str | None


class Health(BaseModel):
    """The service answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether searches are answered, and what stands in the way of what was asked for."""

    ready: bool
    version: str | None
    fault: str | None


class Refusal(BaseModel):
    """Why a request was refused: each fault with its field."""

    detail: list[dict[str, Any]] | str
