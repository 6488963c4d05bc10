"""The InternVLTraining API as pydantic models: the CRD and its reference pages are generated from them."""
