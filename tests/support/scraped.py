"""What Prometheus reads, read by its own library."""

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


class Scraped:
    """A page of metrics. Raises ValueError for what is not one."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples: list[Sample] = [sample for family in self.families.values() for sample in family.samples]

    def of(self, name: str, **labels: str) -> Iterator[Sample]:
        """Those of the name that have these labels, whatever else they have. An empty one: it has none such."""
        for sample in self.samples:
            if sample.name == name and all(sample.labels.get(key, "") == value for key, value in labels.items()):
                yield sample

    def sum(self, name: str, **labels: str) -> float:
        """Of their values; 0 without any."""
        return sum(sample.value for sample in self.of(name, **labels))

    def value(self, name: str, **labels: str) -> float:
        """Of the only one."""
        (sample,) = self.of(name, **labels)
        return float(sample.value)
