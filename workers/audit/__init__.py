"""The tether audit: every string that still ties the Sovereign to somebody else, by who pulls on it.

`rules` judges objects (pure), `survey` reads the cluster, `finding` is what travels, `report` is for people.
The same scan is the preflight's, the completion's evidence, and after completion the drift alarm.
"""
