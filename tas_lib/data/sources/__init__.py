"""Where a collection comes from; each module makes a `records.Source`."""
