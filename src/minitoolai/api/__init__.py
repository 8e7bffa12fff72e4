"""The JSON routes: the route table, account endpoints and the OpenAPI description."""
