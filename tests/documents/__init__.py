"""Documents in the programs that people open them with: `make test-documents`."""
