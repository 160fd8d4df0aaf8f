"""An MLServer runtime for any model with MLflow's `python_function` flavour.

It takes what KServe's servers take: one tensor whose second axis are the model's columns, or one input per column,
or a request with MLServer's own content types. A model whose signature names its columns gets them by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, PandasCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

OUTPUT_NAME = "predict"


class MlflowRuntime(MLModel):
    """Loads with `mlflow.pyfunc`; a wrong request is answered with status 400 and the reason."""

    async def load(self) -> bool:
        self._model = await asyncio.to_thread(mlflow.pyfunc.load_model, self.settings.parameters.uri)
        schema = self._model.metadata.get_input_schema()
        self._columns: tuple[str, ...] = ()
        self._types: tuple[Any, ...] = ()
        if schema is not None and not schema.is_tensor_spec() and schema.has_input_names():
            self._columns = tuple(str(name) for name in schema.input_names())
            self._types = tuple(getattr(kind, "to_pandas", lambda: None)() for kind in schema.input_types())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        try:
            data = self._decode(payload)
            result = await asyncio.to_thread(self._model.predict, data)
        except InferenceError:
            raise
        except Exception as error:  # whatever a model says about its input is the client's answer
            raise InferenceError(f"cannot predict with {self.name}: {error}") from error
        return InferenceResponse(
            model_name=self.name, model_version=self.version, id=payload.id, outputs=encode(result)
        )

    def _decode(self, payload: InferenceRequest) -> Any:
        if not payload.inputs:
            raise InferenceError(f"cannot predict with {self.name}: the request has no inputs")
        if payload.parameters is not None and payload.parameters.content_type == PandasCodec.ContentType:
            return self._typed(PandasCodec.decode_request(payload))
        names = {tensor.name for tensor in payload.inputs}
        if len(payload.inputs) > 1 or (self._columns and names == set(self._columns)):
            return self._typed(pd.DataFrame({t.name: column(t) for t in payload.inputs}))
        array = decode(payload.inputs[0])
        if not self._columns:
            return array
        if array.ndim == 1:
            array = array.reshape(-1, 1) if len(self._columns) == 1 else array.reshape(1, -1)
        if array.ndim != 2 or array.shape[1] != len(self._columns):
            raise InferenceError(
                f"cannot predict with {self.name}: the shape {list(payload.inputs[0].shape)} does not fit its "
                f"{len(self._columns)} columns ({', '.join(self._columns)})"
            )
        return self._typed(pd.DataFrame(array, columns=list(self._columns)))

    def _typed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns with the types of the signature: a request may well send all of them as FP64."""
        for name, kind in zip(self._columns, self._types, strict=True):
            if name in frame and kind is not None and frame[name].dtype != kind:
                frame[name] = frame[name].astype(kind)
        return frame


def decode(tensor: RequestInput) -> np.ndarray[Any, Any]:
    """The tensor in its shape; texts come as `str`."""
    if tensor.datatype == "BYTES":
        return np.array(StringCodec.decode_input(tensor), dtype=object).reshape(tensor.shape)
    array: np.ndarray[Any, Any] = NumpyCodec.decode_input(tensor)
    return array


def column(tensor: RequestInput) -> np.ndarray[Any, Any]:
    """A tensor of shape [n] or [n, 1] as one column."""
    array = decode(tensor)
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        raise InferenceError(
            f"cannot read the input {tensor.name}: several inputs mean one column each, in the shape [n] or [n, 1]"
        )
    return array.reshape(-1)


def encode(result: Any) -> list[ResponseOutput]:
    """Predictions as tensors: a table gives one per column."""
    if isinstance(result, pd.DataFrame):
        return [_encode(str(name), result[name].to_numpy()) for name in result.columns]
    if isinstance(result, dict):
        return [_encode(str(name), np.asarray(value)) for name, value in result.items()]
    return [_encode(OUTPUT_NAME, np.asarray(result))]


def _encode(name: str, values: np.ndarray[Any, Any]) -> ResponseOutput:
    if values.dtype.kind in "OUS":
        texts: Sequence[str] = [str(value) for value in values.reshape(-1)]
        return StringCodec.encode_output(name, list(texts))
    return NumpyCodec.encode_output(name, values)
