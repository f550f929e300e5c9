package gateway

import (
	"github.com/dbuild/dbuild/llb"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	capspb "github.com/moby/buildkit/util/apicaps/pb"
)

// Clients change what they send by these lists, so a capability stands here only when
// the behaviour exists.

func frontendCaps() []*capspb.APICap {
	return enabled(
		gwpb.CapSolveBase, gwpb.CapSolveInlineReturn, gwpb.CapResolveImage, gwpb.CapResolveImageResolveMode,
		gwpb.CapReadFile, gwpb.CapReturnResult, gwpb.CapReturnMap, gwpb.CapReadDir, gwpb.CapStatFile,
		gwpb.CapProtoRefArray, gwpb.CapReferenceOutput, gwpb.CapFrontendInputs, gwpb.CapGatewaySolveMetadata,
		gwpb.CapFrontendCaps, gwpb.CapImportCaches, gwpb.CapGatewayEvaluateSolve, gwpb.CapGatewayEvaluate, gwpb.CapGatewayWarnings,
		gwpb.CapSourceMetaResolver, gwpb.CapSourceMetaResolverImageAttestations, gwpb.CapSourceMetaResolverHTTPChecksumRequest,
		gwpb.CapGatewayExec, gwpb.CapGatewayExecExtraHosts, gwpb.CapGatewayExecSecretEnv, gwpb.CapGatewayExecSignals,
		gwpb.CapGatewayExecFilesystem,
		gwpb.CapAttestations,
	)
}

func llbCaps() []*capspb.APICap {
	return enabled(
		pb.CapSourceImage, pb.CapSourceImageResolveMode, pb.CapSourceImageLayerLimit, pb.CapSourceImageChecksum,
		pb.CapSourceLocal, pb.CapSourceLocalUnique, pb.CapSourceLocalSessionID, pb.CapSourceLocalIncludePatterns,
		pb.CapSourceLocalFollowPaths, pb.CapSourceLocalExcludePatterns, pb.CapSourceLocalSharedKeyHint, pb.CapSourceLocalDiffer, pb.CapSourceMetadataTransfer,
		pb.CapSourceGit, pb.CapSourceGitKeepDir, pb.CapSourceGitFullURL, pb.CapSourceGitHTTPAuth, pb.CapSourceGitKnownSSHHosts,
		pb.CapSourceGitMountSSHSock, pb.CapSourceGitSubdir, pb.CapSourceGitChecksum, pb.CapSourceGitSkipSubmodules, pb.CapSourceGitMTime,
		pb.CapSourceGitFetchByCommit, pb.CapSourceGitSignatureVerify, pb.CapSourceGitBundle, pb.CapSourceGitCheckoutBundle,
		pb.CapSourceHTTP, pb.CapSourceHTTPAuth, pb.CapSourceHTTPHeader, pb.CapSourceHTTPChecksum, pb.CapSourceHTTPPerm, pb.CapSourceHTTPUIDGID, pb.CapSourceHTTPSignatureVerify,
		pb.CapSourceOCILayout, pb.CapSourceImageBlob, pb.CapBuildOpLLBFileName,
		pb.CapExecMetaBase, pb.CapExecMetaCgroupParent, pb.CapExecMetaNetwork, pb.CapExecMetaProxy, pb.CapExecMetaSecurity,
		pb.CapExecMetaSetsDefaultPath, pb.CapExecMetaUlimit, pb.CapExecMetaRemoveMountStubsRecursive, pb.CapExecMetaLinuxResources, pb.CapExecMetaCDI,
		pb.CapExecMountBind, pb.CapExecMountBindReadWriteNoOutput, pb.CapExecMountCache, pb.CapExecMountCacheSharing,
		pb.CapExecMountSelector, pb.CapExecMountTmpfs, pb.CapExecMountTmpfsSize, pb.CapExecMountSecret, pb.CapExecMountSSH,
		pb.CapExecMountContentCache, pb.CapExecCgroupsMounted, pb.CapExecSecretEnv, pb.CapExecValidExitCode,
		pb.CapFileBase, pb.CapFileRmWildcard, pb.CapFileCopyIncludeExcludePatterns, pb.CapFileCopyRequiredPaths,
		pb.CapFileRmNoFollowSymlink, pb.CapFileCopyAlwaysReplaceExistingDestPaths, pb.CapFileCopyModeStringFormat, pb.CapFileSymlinkCreate,
		pb.CapConstraints, pb.CapPlatform, pb.CapMetaIgnoreCache, pb.CapMetaDescription, pb.CapMetaExportCache,
		pb.CapMergeOp, pb.CapDiffOp, pb.CapPassthroughOp,
		pb.CapAnnotations, pb.CapSourceDateEpoch, pb.CapMultipleExporters, pb.CapGCFreeSpaceFilter,
		pb.CapSourcePolicy, pb.CapSourcePolicySession, pb.CapAttestations,
		llb.CapRunLimits,
	)
}

func enabled(ids ...apicaps.CapID) []*capspb.APICap {
	out := make([]*capspb.APICap, len(ids))
	for i, id := range ids {
		out[i] = &capspb.APICap{ID: string(id), Enabled: true}
	}
	return out
}
