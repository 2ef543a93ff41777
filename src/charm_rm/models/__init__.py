"""Everything that needs torch: reward models, how they read a conversation, and scoring."""
