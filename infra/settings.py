"""Every value a person may choose, read once at the start into frozen, typed sections.

Later wins: `infra/config/tollgate.toml`, the file named by `TOLLGATE_CONFIG`, the addresses that the running
local stack wrote to its home folder, the secrets made there, the environment (`TOLLGATE_<SECTION>__<FIELD>`).
"""

import difflib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from infra import keys, objectives
from infra.errors import UserError
from infra.layers import Layer, Location, Tree, from_file, merged, told

DEFAULTS = Path(__file__).with_name("config") / "tollgate.toml"

Share = Annotated[float, Field(ge=0, le=1)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=1, allow_inf_nan=False)]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]
Objective = Annotated[
    str, BeforeValidator(objectives.canonical), WithJsonSchema({"title": "Objective", **objectives.SCHEMA})
]
"""What a price is for, as one word: a name, or a mix (`infra/objectives.py`)."""
RuleOutcome = Literal["review", "decline", "allow"]


def with_password(address: str, password: str) -> str:
    """An address that signs in; one that has a password of its own, or names no host, stays as it is.

    >>> with_password("redis://127.0.0.1:6379/0", "a/b")
    'redis://:a%2Fb@127.0.0.1:6379/0'
    >>> with_password("postgresql://me@there/db", "secret")
    'postgresql://me:secret@there/db'
    """
    parts = urlsplit(address)
    if not password or parts.password or not parts.hostname:
        return address
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def without_password(address: str) -> str:
    """An address as it may be shown.

    >>> without_password("redis://:secret@127.0.0.1:6379/0")
    'redis://:***@127.0.0.1:6379/0'
    """
    parts = urlsplit(address)
    if not parts.password:
        return address
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}").geturl()


class Section(BaseModel):
    """A frozen group of values that refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Addresses(Section):
    """Where the servers answer; `redis` and `registry` with their passwords, which nothing shows."""

    kafka: str
    redis: Annotated[str, Field(repr=False), PlainSerializer(without_password)]
    mlflow: str
    api: str
    registry: Annotated[str, Field(repr=False), PlainSerializer(without_password)] = ""
    """SQLAlchemy address of Feast's registry; empty: a SQLite file at home."""
    redis_password: SecretStr = SecretStr("")
    postgres_password: SecretStr = SecretStr("")

    @field_validator("redis_password", "postgres_password")
    @classmethod
    def _no_placeholder(cls, password: SecretStr) -> SecretStr:
        word = password.get_secret_value()
        if word and (len(word) < keys.SHORTEST or "," in word):  # Feast's list of options ends at a comma
            raise ValueError("expected a password such as `tollgate secrets` makes, came another word")
        return password

    @model_validator(mode="after")
    def _signed_in(self) -> Self:
        """Put the passwords where every client finds them."""
        for name, password in (("redis", self.redis_password), ("registry", self.postgres_password)):
            address = with_password(getattr(self, name), password.get_secret_value())
            object.__setattr__(self, name, address)  # the section is frozen as soon as it is validated
        return self


class Key(Section):
    """An API key that is accepted; `sha256` is all that is kept of it (`infra/keys.py`)."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """Whose it is; calls are limited by it."""
    scopes: Annotated[tuple[keys.Scope, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @field_validator("sha256")
    @classmethod
    def _of_a_secret(cls, sha256: str) -> str:
        if len(set(sha256)) == 1 or sha256 in {keys.digest(word) for word in keys.PLACEHOLDERS}:
            raise ValueError("expected the SHA-256 of a key, came a placeholder's; run `tollgate secrets`")
        return sha256


class Api(Section):
    """Who may call the API, and how much; without `keys` all who reach it may."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that answer; each counts `requests_per_s` for itself."""

    keys: tuple[Key, ...] = ()
    key: SecretStr = SecretStr("")
    """What our own programs send when they call it; empty: nothing."""
    requests_per_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    burst: Annotated[int, Field(ge=1)] = 1
    max_body_bytes: Annotated[int, Field(ge=1_024)] = 8 * 1024 * 1024
    max_delay_ms: Positive = 50.0
    large_calls: Annotated[int, Field(ge=1)] = 4
    max_connections: Annotated[int, Field(ge=1)] = 1_000
    read_timeout_s: Positive = 10.0
    write_timeout_s: Positive = 10.0
    docs_need_key: bool = True

    @field_validator("keys")
    @classmethod
    def _told_apart(cls, given: tuple[Key, ...]) -> tuple[Key, ...]:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in given]
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"expected a {field} of its own for each key, two have {twice[0]!r}")
        return given

    @field_validator("key")
    @classmethod
    def _no_placeholder(cls, key: SecretStr) -> SecretStr:
        word = key.get_secret_value()
        if word and (len(word) < keys.SHORTEST or not word.isascii() or not word.isprintable()):
            raise ValueError("expected a key such as `tollgate secrets` makes, came another word")
        return key

    @property
    def headers(self) -> dict[str, str]:
        """What our own programs send beside the rest."""
        key = self.key.get_secret_value()
        return {"Authorization": f"Bearer {key}"} if key else {}


class Neighbours(Section):
    """How long the API waits for its neighbours before it answers without them (`docs/reliability.md`)."""

    store_ms: Positive = 100.0
    acknowledge_ms: Positive = 150.0
    accept_s: Positive = 2.0
    outbox_mb: Positive = 256.0


class Privacy(Section):
    """What becomes of identifiers of persons (`ingestion/pseudonyms.py`), and how long events are kept."""

    pseudonym_keys: tuple[SecretStr, ...] = ()
    """The oldest first; without any, identifiers stay as they come."""
    attributes: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Names of attributes and context fields that tell of a person."""
    retention_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @field_validator("pseudonym_keys")
    @classmethod
    def _secret(cls, given: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        words = [key.get_secret_value() for key in given]
        if any(not keys.SHORTEST <= len(word.encode()) <= keys.LONGEST for word in words):
            raise ValueError("expected keys such as `tollgate secrets` makes, came another word")
        if len(set(words)) < len(words):
            raise ValueError("expected keys that differ, came one twice")
        return given


class Topics(Section):
    """How topics are created."""

    partitions: Annotated[int, Field(ge=1)]
    retention_days: Annotated[float, Field(gt=0)]
    idempotency_days: Annotated[float, Field(gt=0)]


class Rule(Section):
    """A rule of the fraud policy; who knows the features reads the condition (`training/conditions.py`)."""

    name: Annotated[str, Field(min_length=1)]
    when: Annotated[str, Field(min_length=1)]
    outcome: RuleOutcome
    day_0: bool = False
    """It decides only while there is no model."""


class FraudPolicy(Section):
    """Costs, capacity and rules of the fraud decision; money in the main unit of `Settings.currency`."""

    chargeback_fee: Money
    loss_share: Share
    margin_share: Share
    review_cost: Money
    review_capacity_per_day: Count
    control_group_share: Share
    control_group_max_amount: Money
    control_group_rules: bool = False
    control_group_salt: SecretStr = SecretStr("")
    slices: tuple[str, ...] = ()
    rules: tuple[Rule, ...]

    @field_validator("rules")
    @classmethod
    def _told_apart(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        names = [rule.name for rule in rules]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"expected a name of its own for each rule, two are called {twice[0]!r}")
        return rules


class PricingPolicy(Section):
    """Objective, guardrails and exploration of the price."""

    objective: Objective
    growth_margin_floor: Share
    min_margin_share: Share
    price_step: Positive
    max_step_share: Share
    max_day_share: Positive = 0.3
    same_price_s: Annotated[float, Field(ge=0, le=604_800)] = 0.0
    personal: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    use_personal: bool = False
    fraud_loss: bool = False
    fraud_probability_personal: bool = True
    candidate_low: Positive
    candidate_high: Positive
    candidates: Annotated[int, Field(ge=2, le=1000)]
    exploration_share: Share
    exploration_max_loss: Share = 1.0
    exploration_at_start: Share = 0.0
    thompson: bool = True

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.candidate_low >= self.candidate_high:
            raise ValueError("expected candidate_low under candidate_high")
        return self

    @property
    def unused(self) -> tuple[str, ...]:
        """What a request may tell of a person and no price may depend on."""
        return () if self.use_personal else self.personal

    @property
    def asks_who_pays(self) -> bool:
        """Whether prices may depend on the probability of fraud that a request tells of its shopper."""
        personal = self.fraud_probability_personal or "fraud_probability" in self.personal
        return self.fraud_loss and (self.use_personal or not personal)


class Product(Section):
    """A product of the catalogue, as in `PUT /v1/products/{product_id}`; `max_step` in money."""

    product_id: Annotated[str, Field(min_length=1)]
    list_price: Positive
    unit_cost: Money
    currency: Currency
    floor: Money
    ceiling: Positive
    max_step: Positive
    category: str
    objective: Objective | None = Field(default=None, exclude_if=lambda own: own is None)
    """Of this product's prices, unless the request names one; None: the policy's."""

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not self.floor <= self.list_price <= self.ceiling:
            raise ValueError("expected floor <= list_price <= ceiling")
        return self


class Labels(Section):
    """When a transaction's label counts as settled."""

    maturity_days: Annotated[float, Field(ge=0)]


class Decisions(Section):
    """How long a decision can be asked for by its transaction."""

    ttl_days: Positive


class Retraining(Section):
    """What starts a retraining; the first trigger that is met wins."""

    min_new_labels: Count
    min_new_outcomes: Count
    max_age_days: Positive
    window_days: Positive
    poll_s: Positive
    shadow_poll_s: Positive


class DataTests(Section):
    """How far data may be from usual before a training leaves them out."""

    min_day_rows: Annotated[int, Field(ge=1)] = 50
    max_volume_ratio: Annotated[float, Field(gt=1)] = 4.0
    max_rate_change: Share = 0.2
    max_rate_ratio: Annotated[float, Field(gt=1)] = 5.0
    burst: Annotated[int, Field(ge=2)] = 10
    look_alikes: Annotated[int, Field(ge=2)] = 20
    max_left_out: Share = 0.2


class Gate(Section):
    """What a challenger must show before it may take over: in its trial, then in shadow of live traffic."""

    min_gain: float
    simple_margin: Share
    min_labels: Count
    min_frauds: Count
    fair_slices: tuple[str, ...]
    min_recall_ratio: Share
    max_false_decline_ratio: Positive
    max_price_loss: Share
    shadow_labels: Count
    shadow_frauds: Count
    shadow_days: Positive
    shadow_min_gain: float
    shadow_confidence: Annotated[float, Field(ge=0.5, lt=1)]
    max_slice_loss: Share
    max_calibration_ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    max_latency_ms: Positive
    max_latency_ratio: Positive
    max_model_mb: Positive
    max_risk_fall: Share
    canary_share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # runs from before the canary can be made again
    canary_days: Positive = 7.0
    canary_max_ratio: Ratio = 2.0


class Watching(Section):
    """What is watched of the champions, and who hears of it."""

    period_s: Positive
    window_days: Positive
    drift_days: Positive
    min_rows: Count
    psi_limit: Positive
    false_discoveries: Share
    drifted_share: Share
    fraud_ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)]
    demand_ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)]
    demand_tolerated: Annotated[float, Field(ge=1)]
    false_alarm_days: Annotated[float, Field(ge=2)]
    min_new_settled: Count
    silent_days: Positive
    late_days: Positive
    late_share: Share
    max_waiting: Count
    skew_rows: Count
    skew_period_s: Positive
    webhook: str
    alertmanager: str
    resend_s: Positive


class Settings(Section):
    """All settings; `load` builds them."""

    home: Path
    currency: Currency
    addresses: Addresses
    api: Api = Api()
    neighbours: Neighbours = Neighbours()
    privacy: Privacy = Privacy()
    topics: Topics
    labels: Labels
    decisions: Decisions
    fraud: FraudPolicy
    pricing: PricingPolicy
    catalogue: tuple[Product, ...]
    retraining: Retraining
    watching: Watching
    data_tests: DataTests = DataTests()
    gate: Gate

    @property
    def history(self) -> Path:
        """Folder of the Parquet history."""
        return self.home / "history"

    @property
    def offline(self) -> Path:
        """Folder of the state rows that Feast joins."""
        return self.home / "offline"

    @property
    def registry(self) -> Path:
        """SQLite file of the Feast registry, where `addresses.registry` names no other."""
        return self.home / "registry.db"

    @property
    def models(self) -> Path:
        """Folder of the champions on disk: `models/<task>/<version>/`."""
        return self.home / "models"

    @property
    def findings(self) -> Path:
        """Folder of what the watcher found: `watching/<task>.json`."""
        return self.home / "watching"

    @property
    def outbox(self) -> Path:
        """Folder of what the API has answered and Kafka has not taken yet (`serving/outbox.py`)."""
        return self.home / "outbox"

    @property
    def secrets(self) -> Path:
        """TOML file of what nobody else may know, made by `tollgate secrets`."""
        return secrets_file(self.home)

    @property
    def forgotten(self) -> Path:
        """File of who was forgotten (`ingestion/forgotten.py`)."""
        return self.home / "forgotten.json"

    @property
    def logs(self) -> Path:
        """Folder of all log files."""
        return self.home / "logs"


class _Environment(Settings, BaseSettings):
    """The same fields under the names that they have in the environment."""

    model_config = SettingsConfigDict(env_prefix="TOLLGATE_", env_nested_delimiter="__")


def load(over: Path | None = None) -> Settings:
    """Read the settings afresh.

    Args:
        over: a file like that of `TOLLGATE_CONFIG`, which wins over everything, to try something else.

    Raises:
        UserError: a value is wrong; the sentence names the file and line, or the variable.
    """
    layers, home = _layers()
    if over is not None:
        layers = [*layers, from_file(over, "expected a TOML file")]
    try:
        return Settings(**{**merged(layers), "home": home})
    except ValidationError as error:
        raise UserError(_sentence(error, layers)) from None


def stamps() -> tuple[object, ...]:
    """Something else as soon as a file that a person writes for `load` was written, replaced or removed."""
    return tuple(_stamp(path) for path in _files())


def refusal(location: Location, reason: str) -> UserError:
    """The error of a value that only its user could know to be wrong, told with its place as by `load`.

    Args:
        location: such as `("fraud", "rules", 0, "when")`.
        reason: what was expected and what came, without a full stop.
    """
    return UserError(told(location, location, reason, _layers()[0]))


def policy_version(section: Section) -> str:
    """First 12 hex digits of the SHA-256 of a section's content, whatever its order in the file.

    A secret is not part of it: it could be guessed from a hash that everybody sees.
    """
    content = json.dumps(section.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def addresses_file(home: Path) -> Path:
    """Where the running local stack says where its servers answer."""
    return home / "addresses.json"


def secrets_file(home: Path) -> Path:
    """What `tollgate secrets` made: settings as in the other files, for the owner's eyes."""
    return home / "secrets.toml"


def _layers() -> tuple[list[Layer], Path]:
    """All sources, later wins, and the home folder that they agree on."""
    environment = Layer(None, _environment())
    layers = [from_file(path) for path in _files()]
    home = Path(str(merged([*layers, environment])["home"])).expanduser().absolute()
    return [*layers, *_running(home), *_secret(home), environment], home


def _files() -> list[Path]:
    chosen = os.environ.get("TOLLGATE_CONFIG")
    return [DEFAULTS, *([Path(chosen)] if chosen else [])]


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _environment() -> Tree:
    try:
        return EnvSettingsSource(_Environment)()
    except SettingsError as error:
        raise UserError(f"environment: {error}; expected JSON in this variable.") from None


def _running(home: Path) -> list[Layer]:
    path = addresses_file(home)
    if not path.exists():
        return []
    try:
        return [Layer(path, {"addresses": json.loads(path.read_text("utf-8"))}, path.read_text("utf-8"))]
    except ValueError:
        raise UserError(f"{path}: expected JSON; run `tollgate down` and `tollgate up`.") from None


def _secret(home: Path) -> list[Layer]:
    path = secrets_file(home)
    if not path.exists():
        return []
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path}: others may read it; expected mode 0600: run `chmod 600 {path}`.")
    return [from_file(path)]


def _sentence(error: ValidationError, layers: list[Layer]) -> str:
    """The first wrong value; the others will be told after it is put right."""
    first = error.errors(include_url=False)[0]
    location: Location = first["loc"]
    found = location if first["type"] != "missing" else location[:-1]
    expected = _expected(first["type"], first["msg"], str(location[-1]))
    return told(location, found, f"{expected}{_came(first)}", layers)


def _expected(kind: str, message: str, name: str) -> str:
    if kind == "missing":
        return "expected a value, nothing came"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(name, _names(), n=1)
        return "there is no such setting" + (f", did you mean `{near[0]}`" if near else "")
    return message.removeprefix("Value error, ").removeprefix("Input ").replace("should be", "expected")


def _names() -> set[str]:
    """Give the names of all fields of all sections."""
    sections: list[type[BaseModel]] = [Settings, *Section.__subclasses__()]
    return {name for section in sections for name in section.model_fields}


def _came(error: Mapping[str, Any]) -> str:
    if error["type"] in ("missing", "extra_forbidden", "value_error"):
        return ""
    return f", got {error['input']!r}"
