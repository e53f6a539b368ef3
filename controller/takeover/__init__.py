"""Pure: taking Services over, so that their callers reach the gateway, and giving them back. `plan` has the theory."""
