"""A recipe carried out: data prepared, every entry trained, scored, exported and recorded."""
