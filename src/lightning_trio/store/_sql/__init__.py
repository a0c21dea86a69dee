"""The SQL stores: operations written once against a transaction, and what each database does in its own way."""
