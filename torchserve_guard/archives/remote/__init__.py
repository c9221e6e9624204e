"""Archives from elsewhere: fetched on terms, into a quarantine, and lent only when they are what the manifest lists."""
