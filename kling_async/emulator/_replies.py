"""What goes back over the wire, as a value that faults can still change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from attrs import field, frozen


@frozen(kw_only=True)
class Reply:
    """One whole answer."""

    status: int = 200
    body: bytes = field(default=b"", repr=False)
    content_type: str = "application/json; charset=utf-8"
    headers: Mapping[str, str] = field(factory=dict)

    @classmethod
    def json(cls, payload: Any, status: int = 200, **headers: str) -> Self:
        """An answer in JSON."""
        return cls(
            status=status,
            body=json.dumps(payload, ensure_ascii=False).encode(errors="replace"),  # a lone surrogate may be echoed
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    @property
    def payload(self) -> Any:
        """The JSON in it; `None` when it holds none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None
