"""The label store below the verbs: tables, migrations, accounts, backups."""
