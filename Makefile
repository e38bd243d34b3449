# One word, one line each. `make setup` once; ./scripts/test runs everything as CI does.
.PHONY: setup format lint types arch unit test integration e2e proto check
BIN := .venv/bin

setup: ; ./scripts/install --dev
format: ; $(BIN)/ruff format . && $(BIN)/ruff check --fix .
lint: ; $(BIN)/ruff format --check . && $(BIN)/ruff check .
types: ; $(BIN)/mypy
arch: ; $(BIN)/lint-imports && $(BIN)/pytest -q tests/architecture
unit: ; $(BIN)/pytest -q $(wildcard tests/unit tests/properties)
test: ; ./scripts/test
integration: ; $(BIN)/pytest -q tests/contract tests/integration
e2e: ; $(BIN)/pytest -q tests/e2e
proto: ; $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. proto/*.proto
check: lint types arch unit
