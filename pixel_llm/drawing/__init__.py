"""Pictures of what a model says: one file for each kind of answer, and the sheet that they stand on."""
