"""What whoever fetches charts and packages is told: addresses and logins. Known to step 6 and to the audit alike."""
