"""What the gateway's HTTP routes take and give, as an OpenAPI 3.1 document; a row beside each route's handler in words.

Where a model of a body exists the document is made of it: pydantic's for OpenAI's bodies, protobuf's for what is a
message as JSON. tests/gateway/test_openapi.py holds the rows against gateway/routes.py, and
tests/contract/test_openapi_conformance.py holds a running gateway against the document.
"""
