"""The feature store of the settings, with the views that a training needs."""

from features.definition import FeatureSet
from features.store import FeatureStore
from infra.settings import Settings


def feature_store(settings: Settings, features: FeatureSet) -> FeatureStore:
    """Feast over the home folder; views that are not registered yet are registered now."""
    store = FeatureStore.of(settings)
    store.apply([features])
    return store
